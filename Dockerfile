FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md constraints.txt hatch_build.py ./
COPY backfilld backfilld
COPY migrations migrations
COPY monitoring monitoring
COPY worker worker
COPY producers producers
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
 && python -m venv /opt/backfilld \
 && /opt/backfilld/bin/pip install --no-cache-dir -c constraints.txt /wheels/backfilld-*.whl

FROM python:3.12-slim
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin backfilld
COPY --from=build /opt/backfilld /opt/backfilld
# 0.0.0.0: inside a container, what reaches the port is decided by what publishes it.
ENV PATH=/opt/backfilld/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BACKFILLD_HTTP_HOST=0.0.0.0 \
    BACKFILLD_HTTP_PORT=9188
USER backfilld
WORKDIR /tmp
EXPOSE 9188
# The worker finishes the batch in hand; give it more than its 30 s before SIGKILL (docker stop --time 60).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['BACKFILLD_HTTP_PORT']}/live\", timeout=4)"]
ENTRYPOINT ["backfilld"]
CMD ["worker"]
