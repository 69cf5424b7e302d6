# The commands this project is worked on with. .ci/run is what decides.
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: build test short lint bench demo

build: ## the binary, as the Dockerfile builds it
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o tidewaiter ./cmd/tidewaiter

test:
	go test -race ./...

short: ## seconds, for while one works
	go test -short ./...

lint:
	test -z "$$(gofmt -l .)"
	go vet ./...
	go run $(GOLANGCI) run ./...

bench:
	go test -run '^$$' -bench . -benchmem ./...

demo:
	go run ./cmd/tidewaiter demo
