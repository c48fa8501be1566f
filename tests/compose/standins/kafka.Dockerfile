# Stands in for the official Apache Kafka image where no registry can be reached: the same jars from Maven Central, set up
# by the same class (KafkaDockerWrapper) that the official image's entrypoint calls.
FROM cryptotrace-standin:services
RUN useradd --uid 1000 --user-group --create-home appuser \
    && install -d -o appuser -g appuser /var/lib/kafka/data /opt/kafka/config /mnt/shared/config /etc/kafka/docker
COPY libs /opt/kafka/libs
COPY --chmod=0644 kafka-log4j2.yaml /etc/kafka/docker/log4j2.yaml
COPY --chmod=0644 kafka-log4j2.yaml /etc/kafka/docker/tools-log4j2.yaml
COPY --chmod=0755 kafka-run.sh /etc/kafka/docker/run
RUN touch /etc/kafka/docker/server.properties
USER appuser
VOLUME ["/var/lib/kafka/data"]
CMD ["/etc/kafka/docker/run"]
