# A static binary and certificates, nothing else: no shell, no package manager, no libc. The root can be read-only if /tmp and
# /var/lib/tidewaiter are volumes.
FROM golang:1.26 AS build
ENV GOTOOLCHAIN=local CGO_ENABLED=0
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# The folders are made here because nothing in the final image can make them.
RUN go build -trimpath -ldflags "-s -w" -o /out/tidewaiter ./cmd/tidewaiter \
 && install -d -m 1777 /out/tmp \
 && install -d -m 0750 /out/var/lib/tidewaiter

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/tmp /tmp
COPY --from=build --chown=65532:65532 /out/var/lib/tidewaiter /var/lib/tidewaiter
COPY --from=build /out/tidewaiter /tidewaiter
# A number, so that an orchestrator can tell that it is not root.
USER 65532:65532
WORKDIR /var/lib/tidewaiter
VOLUME /var/lib/tidewaiter
EXPOSE 5000 5001
ENTRYPOINT ["/tidewaiter"]
# Without a configuration it listens on loopback, which nobody outside the container reaches. Mount one and name it here.
CMD ["serve"]
