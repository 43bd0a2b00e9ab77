"use strict";
(() => {
  const rows = [...document.querySelectorAll("tr.member")];
  const body = rows.length ? rows[0].parentNode : null;
  const under = new Map(rows.map((row) => [row, document.getElementById(`runs-${row.dataset.member}`)]));

  // Sorting: cells carry what they are sorted by; rows without it come last either way.
  for (const button of document.querySelectorAll("table.members thead button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const place = head.cellIndex;
      const up = head.getAttribute("aria-sort") === "descending" || (head.getAttribute("aria-sort") !== "ascending" && head.dataset.first === "up");
      for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const keyed = rows.map((row) => [row.cells[place].dataset.by ?? "", row]);
      const numbers = keyed.every(([key]) => key === "" || !Number.isNaN(Number(key)));
      keyed.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = numbers ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true });
        return up ? order : -order;
      });
      body.append(...keyed.flatMap(([, row]) => [row, under.get(row)]));
    });
  }

  // Filtering, by the axes, by state and by any text.
  const filters = [...document.querySelectorAll(".filters [data-filter]")];
  const count = document.getElementById("count");
  const filter = () => {
    let shown = 0;
    for (const row of rows) {
      const values = JSON.parse(row.dataset.values);
      const fits = filters.every((one) => {
        if (!one.value) return true;
        if (one.dataset.filter === "") return row.textContent.toLowerCase().includes(one.value.toLowerCase());
        return values[Number(one.dataset.filter)] === one.value;
      });
      row.hidden = !fits;
      shown += fits;
      if (!fits) close(row);
      for (const point of document.querySelectorAll(`[id^="point-"][id$="-${row.dataset.member}"]`)) point.style.display = fits ? "" : "none";
    }
    if (count) count.textContent = `${shown} of ${rows.length}`;
  };
  for (const one of filters) one.addEventListener("input", filter);

  // The runs of a member.
  const close = (row) => { under.get(row).hidden = true; row.querySelector(".open").setAttribute("aria-expanded", "false"); };
  const open = (row) => { under.get(row).hidden = false; row.querySelector(".open").setAttribute("aria-expanded", "true"); };
  for (const row of rows) {
    row.querySelector(".open").addEventListener("click", () => (under.get(row).hidden ? open(row) : close(row)));
  }

  // Points of the figures: hovering names the config, a click goes to its runs.
  const tip = document.getElementById("tip");
  const point_at = (event) => {
    const under_pointer = document.elementsFromPoint(event.clientX, event.clientY);
    const points = [...new Set(under_pointer.map((one) => one.closest('[id^="point-"]')).filter(Boolean))];
    const far = (one) => {
      const box = one.getBoundingClientRect();
      return Math.hypot(event.clientX - box.x - box.width / 2, event.clientY - box.y - box.height / 2);
    };
    return points.sort((a, b) => far(a) - far(b))[0];
  };
  const row_of = (point) => rows[Number(point.id.split("-").pop())];
  let lit = [];
  let pointed = false; // lit by the pointer: one that lies elsewhere puts out nothing that has the focus
  const unlight = () => { tip.hidden = true; for (const one of lit) one.classList.remove("on"); lit = []; };
  const light = (point) => {
    unlight();
    const row = row_of(point);
    tip.textContent = row.dataset.tip;
    tip.hidden = false;
    const box = point.getBoundingClientRect();
    const left = Math.min(window.scrollX + box.right + 6, window.scrollX + document.documentElement.clientWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(left, window.scrollX + 8)}px`;
    tip.style.top = `${window.scrollY + box.bottom + 4}px`;
    lit = [row, ...document.querySelectorAll(`[id^="point-"][id$="-${row.dataset.member}"]`)];
    for (const one of lit) one.classList.add("on");
  };
  const visit = (point) => {
    const row = row_of(point);
    row.hidden = false;
    open(row);
    unlight();
    history.replaceState(null, "", `#member-${row.dataset.member}`);
    row.scrollIntoView({ block: "center" });
    row.classList.add("on");
    lit = [row];
  };
  for (const figure of document.querySelectorAll("svg.figure")) {
    for (const point of figure.querySelectorAll('[id^="point-"]')) {
      point.setAttribute("tabindex", "0");
      point.setAttribute("role", "link");
      point.setAttribute("aria-label", row_of(point).dataset.tip.split("\n")[0]);
      point.addEventListener("focus", () => { light(point); pointed = false; });
      point.addEventListener("blur", unlight);
      point.addEventListener("keydown", (event) => { if (event.key === "Enter") visit(point); });
    }
    figure.addEventListener("pointermove", (event) => {
      const point = point_at(event);
      if (point) light(point); else if (pointed) unlight();
      pointed = Boolean(point);
    });
    figure.addEventListener("pointerleave", () => { if (pointed) unlight(); pointed = false; });
    figure.addEventListener("click", (event) => { const point = point_at(event); if (point) visit(point); });
  }
})();
