# All of hybrid_patch: `docker build -t hybrid_patch .`, then `docker run --gpus all hybrid_patch train ...`
# For Apptainer: `apptainer build hybrid_patch.sif docker-daemon://hybrid_patch:latest`.
# Without GPUs: `docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu -t hybrid_patch .`
FROM python:3.11-slim-bookworm

# rasterio needs expat; torch.compile a compiler; the versions are Debian's, of the image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git libexpat1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/hybrid_patch
COPY constraints.txt ./
ARG TORCH_INDEX=https://pypi.org/simple
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" --constraint constraints.txt torch

COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY hybrid_patch hybrid_patch
COPY launch launch
RUN pip install --no-cache-dir --constraint constraints.txt ".[all]"

WORKDIR /work
ENTRYPOINT ["hybrid-patch"]
