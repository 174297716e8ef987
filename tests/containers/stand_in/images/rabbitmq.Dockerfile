# In the place of rabbitmq:4: Debian's RabbitMQ, 4.0.
FROM debian:trixie
RUN useradd --system --uid 999 --home-dir /var/lib/rabbitmq rabbitmq \
    && printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d \
    && apt-get update && apt-get install -y --no-install-recommends rabbitmq-server \
    && rm -rf /var/lib/apt/lists/* /var/lib/rabbitmq/* /var/lib/rabbitmq/.erlang.cookie \
    && install -d -o rabbitmq -g rabbitmq -m 1777 /var/lib/rabbitmq /etc/rabbitmq/conf.d \
    && echo '[rabbitmq_prometheus].' >/etc/rabbitmq/enabled_plugins \
    && echo 'log.console = true' >/etc/rabbitmq/conf.d/10-defaults.conf
# Debian's own wrappers insist on being started by root.
ENV PATH=/usr/lib/rabbitmq/bin:${PATH} HOME=/var/lib/rabbitmq LANG=C.UTF-8 RABBITMQ_LOGS=-
VOLUME /var/lib/rabbitmq
CMD ["rabbitmq-server"]
