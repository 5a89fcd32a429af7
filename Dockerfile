# Two images without PyTorch; docs/containers.md says how to run them.
#   docker build -t edgeseg .                                      any CPU: OpenVINO
#   docker build -t edgeseg:tensorrt --target tensorrt .           a workstation's NVIDIA GPU: TensorRT besides

# --- TensorRT 11.1, CUDA 13.3, Python 3.12, Ubuntu 24.04; the image's own tensorrt module is used
FROM nvcr.io/nvidia/tensorrt:26.07-py3 AS tensorrt-build
# The image pins versions of its own for pip; edgeseg's are in pyproject.toml.
ENV PIP_CONSTRAINT=""
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv --system-site-packages /opt/edgeseg
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY engines engines
COPY calibration calibration
COPY edgeseg edgeseg
RUN /opt/edgeseg/bin/pip install --no-cache-dir ".[tensorrt]" "cuda-python>=13,<14"

FROM nvcr.io/nvidia/tensorrt:26.07-py3 AS tensorrt
LABEL org.opencontainers.image.title="edgeseg, TensorRT" \
      org.opencontainers.image.description="Segments FLAIR abnormality in brain MRI. Non-commercial research use only. Not a medical device." \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-NC-SA-4.0"
COPY --from=tensorrt-build /opt/edgeseg /opt/edgeseg
RUN useradd --uid 10001 --no-create-home --home-dir /tmp edgeseg
ENV PATH=/opt/edgeseg/bin:$PATH HOME=/tmp
WORKDIR /tmp
USER 10001
RUN ["edgeseg", "doctor"]
HEALTHCHECK --interval=5m --timeout=60s --start-period=30s \
    CMD ["edgeseg", "doctor", "--need", "TensorRT", "--json"]
ENTRYPOINT ["edgeseg"]
CMD ["--help"]

# --- any CPU
FROM python:3.12.13-slim-bookworm AS edge-build
RUN python -m venv /opt/edgeseg
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY engines engines
COPY calibration calibration
COPY edgeseg edgeseg
RUN /opt/edgeseg/bin/pip install --no-cache-dir .

FROM python:3.12.13-slim-bookworm AS edge
LABEL org.opencontainers.image.title="edgeseg" \
      org.opencontainers.image.description="Segments FLAIR abnormality in brain MRI. Non-commercial research use only. Not a medical device." \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-NC-SA-4.0"
COPY --from=edge-build /opt/edgeseg /opt/edgeseg
RUN useradd --uid 10001 --no-create-home --home-dir /tmp edgeseg
ENV PATH=/opt/edgeseg/bin:$PATH HOME=/tmp
WORKDIR /tmp
USER 10001
RUN ["edgeseg", "doctor"]
HEALTHCHECK --interval=5m --timeout=60s --start-period=30s CMD ["edgeseg", "doctor", "--json"]
ENTRYPOINT ["edgeseg"]
CMD ["--help"]
