# docker build -t crackcam . && docker run --rm -v "$PWD:/workspace" crackcam explain --image wall.jpg
# This file has not been built where the project is developed.
FROM python:3.12-slim

# For a CPU image without 4 GB of CUDA: --build-arg TORCH_INDEX=<the CPU wheel index that pytorch.org's installation page names>
ARG TORCH_INDEX=""
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir torch torchvision --index-url "$TORCH_INDEX"; fi

COPY . /source
RUN pip install --no-cache-dir /source && rm -rf /source

# The folder that data/, weights/ and outputs/ are relative to
WORKDIR /workspace
ENTRYPOINT ["crackcam"]
CMD ["--help"]
