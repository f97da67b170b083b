# Images of the nodes that run PostgreSQL: computes, and storage nodes, whose redo engine is one.
# The contents of any stock PostgreSQL image (glibc; 15 to 18) and our folder beside them.
#
#     docker build --file images/compute.Dockerfile --target compute \
#         --build-arg POSTGRES_IMAGE=postgres:17 --build-arg SEAWALL_IMAGE=seawall/log:0.1.0 \
#         --tag seawall/compute:0.1.0-pg17 images
#
# Nothing is installed and no mirror is needed. Of the PostgreSQL image only /etc/passwd and
# /etc/group change: initdb refuses a user without a name.

ARG SEAWALL_IMAGE=seawall/log:0.1.0
ARG POSTGRES_IMAGE=postgres:17

# A stage without any step would leave a container of buildah's behind, for good.
FROM ${SEAWALL_IMAGE} AS seawall
USER 0

FROM ${POSTGRES_IMAGE} AS node
USER 0
COPY --from=seawall /opt/seawall/bin /opt/seawall/bin
RUN /opt/seawall/bin/check-image && /opt/seawall/bin/add-user
ENV HOME=/var/lib/seawall PATH=${PATH}:/opt/seawall/bin
WORKDIR /
STOPSIGNAL SIGTERM
USER 10001:10001
CMD []
COPY --from=seawall /opt/seawall/etc /opt/seawall/etc
COPY --from=seawall /opt/seawall/python /opt/seawall/python
COPY --from=seawall /opt/seawall/venv /opt/seawall/venv
ARG PG_MAJOR=
COPY --from=seawall /opt/seawall/app /opt/seawall/app
# Now the library can be tried, and our own code asked whether it would take the server.
RUN /opt/seawall/bin/check-image && /opt/seawall/bin/check-server ${PG_MAJOR}

FROM node AS storage
ENTRYPOINT ["/opt/seawall/bin/seawall-node", "storage"]

FROM node AS compute
ENTRYPOINT ["/opt/seawall/bin/seawall-node", "sqlnode.compute"]
