# The service: API, or a worker. It holds no data: those lie in PHONOFILM_HOME, in PostgreSQL, and where --files says.
FROM python:3.11-slim AS build
# Flags for installing torch alone, such as where to find a build without CUDA libraries.
ARG TORCH_FLAGS=""
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv /opt/phonofilm \
    && /opt/phonofilm/bin/pip install --no-cache-dir ${TORCH_FLAGS} "$(grep '^torch==' constraints.txt)" -c constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/phonofilm/bin/pip install --no-cache-dir '.[postgres,s3,otel]' -c constraints.txt

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/phonofilm --create-home phonofilm \
    && install -d -o phonofilm -g phonofilm /films
COPY --from=build /opt/phonofilm /opt/phonofilm
ENV PATH=/opt/phonofilm/bin:$PATH PHONOFILM_HOME=/var/lib/phonofilm PYTHONUNBUFFERED=1
USER phonofilm
WORKDIR /var/lib/phonofilm
VOLUME ["/var/lib/phonofilm", "/films"]
EXPOSE 8600
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8600/healthz', timeout=4)"]
ENTRYPOINT ["phonofilm"]
CMD ["serve", "--host", "0.0.0.0", "--files", "/films"]
