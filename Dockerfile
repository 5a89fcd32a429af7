# The edge command: edgeseg infer on the CPU, without PyTorch.
#   docker build -t edgeseg .
#   docker run --rm -v "$PWD/study:/study:ro" -v "$PWD/results:/results" edgeseg infer /study -o /results
FROM python:3.12-slim
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY engines engines
COPY edgeseg edgeseg
RUN pip install --no-cache-dir . && rm -rf /src/*
WORKDIR /tmp
RUN useradd --create-home edgeseg
USER edgeseg
ENTRYPOINT ["edgeseg"]
CMD ["--help"]
