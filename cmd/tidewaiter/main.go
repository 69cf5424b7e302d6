// Command tidewaiter is a registry proxy that judges every image before it serves it. See the README.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tidewaiter/tidewaiter/scan"
)

func main() {
	// The worker that reads layers is this binary again. It must lock itself in before anything else happens.
	if len(os.Args) == 2 && os.Args[1] == scan.ChildArg {
		os.Exit(scan.Child(os.Stdin, os.Stdout))
	}
	signals, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	ctx, cancel := context.WithCancel(context.Background())
	context.AfterFunc(signals, func() { // the first signal asks the command to end; from before it hears of that, a second ends the process
		stop()
		cancel()
	})
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	os.Exit(code)
}
