# Images of the nodes that need no PostgreSQL: log, gateway, operator. They differ by their entry
# point; images/compute.Dockerfile puts the same /opt/seawall into a PostgreSQL image.
#
#     docker build --file images/seawall.Dockerfile --target log --tag seawall/log:0.1.0 .
#
# Nothing but a base image and package mirrors is needed. Where the mirrors are is told by secrets,
# all of them optional, which leave no trace in an image or its history (images/build gives them):
#
#     pip_conf         pip's configuration           ca_certificates   authorities to trust
#     apt_list         sources, one line each        apt_sources       sources, deb822
#     apt_conf         apt's configuration

ARG BASE_IMAGE=debian:bookworm-slim

# --- the builder: Debian 12, so that pagefault needs no glibc newer than that --------------------
FROM ${BASE_IMAGE} AS builder
USER 0
COPY images/with-mirrors images/python-tree /build/
RUN --mount=type=secret,id=apt_list,mode=0444,target=/run/seawall/apt/machine.list \
    --mount=type=secret,id=apt_sources,mode=0444,target=/run/seawall/apt/machine.sources \
    --mount=type=secret,id=apt_conf,mode=0444,target=/run/seawall/apt.conf \
    --mount=type=secret,id=ca_certificates,mode=0444,target=/run/seawall/ca-certificates.crt \
    /build/with-mirrors apt-get update -qq && \
    DEBIAN_FRONTEND=noninteractive /build/with-mirrors apt-get install -qq -y \
        --no-install-recommends binutils ca-certificates gcc libc6-dev libstdc++6 patchelf \
        python3.11 python3.11-venv
RUN /build/python-tree /opt/seawall/python && \
    /opt/seawall/python/bin/python3.11 -m compileall -q --invalidation-mode unchecked-hash \
        /opt/seawall/python/lib/python3.11 && \
    /opt/seawall/python/bin/python3.11 -I -m venv --without-pip /opt/seawall/venv && \
    echo /opt/seawall/app >/opt/seawall/venv/lib/python3.11/site-packages/seawall-app.pth && \
    mkdir -p /opt/seawall/etc && \
    cp /etc/ssl/certs/ca-certificates.crt /opt/seawall/etc/ && \
    python3.11 -m venv /build/venv

# --- what our package needs: changes with pyproject.toml and constraints.txt alone ---------------
FROM builder AS dependencies
COPY pyproject.toml constraints.txt images/requirements.py /build/
RUN --mount=type=secret,id=pip_conf,mode=0444,target=/run/seawall/pip.conf \
    --mount=type=secret,id=ca_certificates,mode=0444,target=/run/seawall/ca-certificates.crt \
    cd /build && /build/venv/bin/python requirements.py pyproject.toml && \
    ./with-mirrors venv/bin/pip install -q --no-cache-dir -c constraints.txt pip && \
    ./with-mirrors venv/bin/pip install -q --no-cache-dir -c constraints.txt -r build.txt && \
    ./with-mirrors venv/bin/pip --python /opt/seawall/venv/bin/python install -q --no-cache-dir \
        --no-compile --only-binary :all: -c constraints.txt -r run.txt && \
    cd /opt/seawall/venv && rm -rf bin/activate* bin/Activate* && \
    find bin -type f -delete && \
    find lib -name '*.so*' -type f -exec strip --strip-unneeded {} + && \
    find lib -type d \( -name tests -o -name test \) -prune -exec rm -rf {} + && \
    bin/python -m compileall -q --invalidation-mode unchecked-hash lib

# --- our package: the only stage that runs again when our code changes, without any mirror -------
FROM dependencies AS package
COPY . /build/source/
RUN cd /build && \
    venv/bin/pip wheel -q --no-index --no-deps --no-build-isolation -w wheel source/ && \
    venv/bin/pip --python /opt/seawall/venv/bin/python install -q --no-index --no-deps \
        --no-compile --target /opt/seawall/app wheel/*.whl && \
    rm -rf /opt/seawall/app/bin /opt/seawall/app/bench && \
    strip --strip-unneeded /opt/seawall/app/sqlnode/pagefault/libpagefault.so && \
    /opt/seawall/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash \
        /opt/seawall/app

# --- the images ----------------------------------------------------------------------------------
FROM ${BASE_IMAGE} AS node
USER 0
COPY images/add-user /opt/seawall/bin/
RUN /opt/seawall/bin/add-user
ENV HOME=/var/lib/seawall PATH=${PATH}:/opt/seawall/bin
WORKDIR /
STOPSIGNAL SIGTERM
USER 10001:10001
CMD []
COPY --from=dependencies /opt/seawall /opt/seawall
COPY images/check-image images/check-server images/seawall-node images/seawall /opt/seawall/bin/
COPY --from=package /opt/seawall/app /opt/seawall/app

FROM node AS log
ENTRYPOINT ["/opt/seawall/bin/seawall-node", "log_service"]

FROM node AS gateway
ENTRYPOINT ["/opt/seawall/bin/seawall-node", "gateway"]

# Its package, operator/kube_operator, comes with the wheel.
FROM node AS operator
ENTRYPOINT ["/opt/seawall/bin/seawall-node", "kube_operator"]
