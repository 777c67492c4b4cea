# The study on CPUs, from a clean machine: builds the environment, then runs what it is given, `make reproduce` by default.
#   docker build -t bnstudy .
#   docker run --rm -v "$PWD/data:/bnstudy/data" -v "$PWD/results:/bnstudy/results" bnstudy
#   docker run --rm bnstudy make test
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends gcc git libc6-dev make && rm -rf /var/lib/apt/lists/*
WORKDIR /bnstudy
COPY . .
ARG CPU=1
RUN make setup CPU=$CPU
CMD ["make", "reproduce"]
