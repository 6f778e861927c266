# Stands in for apache/kafka:4.3.1: the same jars, the same class that turns KAFKA_… into server.properties and formats the
# storage (kafka.docker.KafkaDockerWrapper), the same paths, user and tools. The context is a folder with `libs` and the script.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home --shell /bin/bash appuser
COPY libs /opt/kafka/libs
COPY kafka-setup.sh /tmp/
RUN bash /tmp/kafka-setup.sh
USER appuser
EXPOSE 9092
VOLUME ["/etc/kafka/secrets", "/var/lib/kafka/data", "/mnt/shared/config"]
CMD ["/etc/kafka/docker/run"]
