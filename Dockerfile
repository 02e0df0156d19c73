# The reference site: `serve`, `worker` and `migrate` from one image. compose.yaml shows all of them.

# The browser's JavaScript.
FROM node:22-bookworm-slim AS javascript
WORKDIR /build
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY ohsessions/static ohsessions/static
RUN npm run build --silent

FROM python:3.13-slim-bookworm
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/ohsessions

# The sandbox of shells, for workers that may use it (see compose.yaml).
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends bubblewrap && rm -rf /var/lib/apt/lists/*

# Dependencies first: they change seldom. `ohsessions` itself is run from this directory.
COPY pyproject.toml README.md LICENSE ./
COPY ohsessions/__init__.py ohsessions/__init__.py
RUN pip install '.[redis,postgres,site]' && pip uninstall --yes ohsessions

COPY manage.py ./
COPY ohsessions ohsessions
COPY project project
COPY templates templates
COPY --from=javascript /build/ohsessions/static/ohsessions/socket.io.esm.min.js* ohsessions/static/ohsessions/

# Two users: what a session runs in a worker is not who serves its visitors. What must outlive a container, workspaces
# and large snapshots, is the worker's alone. All workers need the same ones.
RUN useradd --create-home --uid 10001 ohsessions-gateway \
    && useradd --create-home --uid 10002 ohsessions-worker \
    && mkdir -p /var/lib/ohsessions/files /var/lib/ohsessions/workspaces \
    && chown -R ohsessions-worker: /var/lib/ohsessions \
    && chmod -R go= /var/lib/ohsessions
ENV DJANGO_STATIC_ROOT=/srv/ohsessions/static \
    DJANGO_MEDIA_ROOT=/var/lib/ohsessions/files \
    OHSESSIONS_WORKSPACE_ROOT=/var/lib/ohsessions/workspaces
RUN DJANGO_SECRET_KEY=build python manage.py collectstatic --noinput --verbosity 0

USER ohsessions-gateway
EXPOSE 8000
CMD ["python", "manage.py", "ohsessions", "serve", "--bind", "0.0.0.0", "--port", "8000"]
