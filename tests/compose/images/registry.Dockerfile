# Stands in for apicurio/apicurio-registry:3.0.9: the same program, configured by the same variables. The context is the
# unpacked release.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/*
COPY . /deployments
USER 185
EXPOSE 8080
CMD ["sh", "-c", "exec java $JAVA_OPTS_APPEND -Dquarkus.http.host=0.0.0.0 -jar /deployments/apicurio-registry-app-*-runner.jar"]
