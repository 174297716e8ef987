# In the place of python:3.11-slim: Debian's Python 3.11, and the certificates of this machine.
FROM debian:bookworm
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3-pip python3 \
    && rm -rf /var/lib/apt/lists/* /usr/lib/python3.*/EXTERNALLY-MANAGED \
    && ln -s python3 /usr/bin/python
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt LANG=C.UTF-8
CMD ["python3"]
