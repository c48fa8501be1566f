#!/bin/sh
# What the official image's entrypoint does: settings from the environment, the storage formatted once, then the broker.
set -eu
classes='/opt/kafka/libs/*'
said=$(java -cp "$classes" kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka/docker \
    --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config 2>&1) \
    || echo "$said" | grep -q 'already formatted' \
    || { echo "$said" && exit 1; }
# shellcheck disable=SC2086 # several options
exec java $KAFKA_HEAP_OPTS -Dlog4j2.configurationFile=/opt/kafka/config/log4j2.yaml \
    -cp "$classes" kafka.Kafka /opt/kafka/config/server.properties
