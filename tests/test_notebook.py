"""The notebook docs/first_map.ipynb, executed by Jupyter's own client; its training is shrunk."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from building import TINY
from launching import variables
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "first_map.ipynb"
STEPS = "trainer.steps=300"
SHRUNK = ("trainer.steps=2", *(word for word in TINY if word.startswith("model.")))


@pytest.mark.full
@pytest.mark.timeout(300)
def test_it_runs_from_its_first_cell_to_its_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in variables(tmp_path, {}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    first = next(cell for cell in notebook.cells if STEPS in cell.source)
    first.source = first.source.replace(STEPS, " ".join(f"'{word}'" for word in SHRUNK))
    NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs[0].text.strip().endswith("runs/notebook")  # behind the cursor that a progress bar had hidden
    assert "image/png" in next(output for output in outputs if output.output_type == "display_data").data
    scores = [line.split() for line in "".join(each.get("text", "") for each in outputs[-2:]).splitlines()]
    assert [words[0] for words in scores[-2:]] == ["raw", "embedding"]
