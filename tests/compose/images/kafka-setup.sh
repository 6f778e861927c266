#!/bin/bash
# Lays out /opt/kafka and /etc/kafka/docker around the jars, inside the image.
set -euo pipefail
mkdir -p /opt/kafka/bin /opt/kafka/config /etc/kafka/docker /etc/kafka/secrets /var/lib/kafka/data /mnt/shared/config

# The files that the wrapper copies; server.properties is made from the environment alone where that names any.
printf '' >/etc/kafka/docker/server.properties
for name in log4j2 tools-log4j2; do
    cat >/etc/kafka/docker/$name.yaml <<'YAML'
Configuration:
  Appenders:
    Console:
      name: STDERR
      target: SYSTEM_ERR
      PatternLayout:
        pattern: "[%d] %p %m (%c)%n"
  Loggers:
    Root:
      level: WARN
      AppenderRef:
        - ref: STDERR
YAML
done
cp /etc/kafka/docker/*.yaml /opt/kafka/config/

cat >/opt/kafka/bin/kafka-run-class.sh <<'RUN'
#!/bin/bash
# shellcheck disable=SC2086 # options are words
exec java ${KAFKA_HEAP_OPTS:--Xmx256m} ${KAFKA_OPTS:-} \
    ${KAFKA_LOG4J_OPTS:--Dlog4j2.configurationFile=/opt/kafka/config/tools-log4j2.yaml} -cp '/opt/kafka/libs/*' "$@"
RUN
tool() { printf '#!/bin/bash\nexec /opt/kafka/bin/kafka-run-class.sh %s "$@"\n' "$2" >"/opt/kafka/bin/kafka-$1.sh"; }
tool console-consumer org.apache.kafka.tools.consumer.ConsoleConsumer
tool console-producer org.apache.kafka.tools.ConsoleProducer
tool consumer-groups org.apache.kafka.tools.consumer.group.ConsumerGroupCommand
tool topics org.apache.kafka.tools.TopicCommand
tool get-offsets org.apache.kafka.tools.GetOffsetShell
tool broker-api-versions org.apache.kafka.tools.BrokerApiVersionsCommand

cat >/etc/kafka/docker/run <<'RUN'
#!/bin/bash
set -e
export CLUSTER_ID=${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}
# A storage that a former container formatted is no fault.
said=$(KAFKA_HEAP_OPTS=-Xmx128m /opt/kafka/bin/kafka-run-class.sh kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka/docker \
    --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config 2>&1) ||
    grep -i 'already formatted' <<<"$said" || { echo "$said" >&2; exit 1; }
export KAFKA_HEAP_OPTS=${KAFKA_HEAP_OPTS:--Xmx1G -Xms1G} KAFKA_LOG4J_OPTS=-Dlog4j2.configurationFile=/opt/kafka/config/log4j2.yaml
exec /opt/kafka/bin/kafka-run-class.sh kafka.Kafka /opt/kafka/config/server.properties
RUN
chmod +x /opt/kafka/bin/*.sh /etc/kafka/docker/run
chown -R appuser: /opt/kafka/config /etc/kafka /var/lib/kafka /mnt/shared/config
