package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
)

// Limits of asking a running proxy.
const (
	askTimeout     = 30 * time.Second // the proxy may have to resolve a tag at its upstream
	maxAnswerBytes = 64 << 20         // a long history of an image with a thousand findings
)

// anyUpstream stands for the upstream of names without a host while their grammar is checked. Which it is, the proxy knows.
const anyUpstream = "localhost"

func newVerdict(inv *invocation) *cobra.Command {
	server, history, pulls := "", false, false
	cmd := &cobra.Command{
		Use:   "verdict REF",
		Short: "Ask a running proxy what it decided about an image, and why",
		Long: `Ask the admin address of a running proxy what it decided about an image: why, when, and from which inputs.

Exit codes: 0 allowed, 1 could not tell (also: never judged), 2 usage error, 3 denied.`,
		Example: "  tidewaiter verdict --server http://127.0.0.1:5001 docker.io/library/nginx:1.27 --history",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			earlier := 0
			if history {
				earlier = console.MaxHistory
			}
			image, err := askImage(cmd.Context(), server, args[0], earlier)
			if err != nil {
				return err
			}
			verdicts := append([]gate.Verdict{image.Verdict}, image.History...)
			var told any = explained(verdicts)
			if pulls {
				told = seenVerdicts{explained(verdicts), image.Recalled, image.Pulls}
			}
			if err := inv.print(told, func(w io.Writer) error { return printSeenVerdicts(w, verdicts, image, pulls) }); err != nil {
				return err
			}
			if !image.Verdict.Allowed() {
				return errDenied
			}
			return nil
		},
	}
	withServer(cmd, &server)
	cmd.Flags().BoolVar(&history, "history", false, "print the verdicts made on the image before, too, newest first")
	cmd.Flags().BoolVar(&pulls, "pulls", false, "print who pulled the image, too; as JSON, one object with verdicts, recalled and pulls")
	inv.withOutput(cmd)
	return cmd
}

// askImage asks the admin API at server about an image, and as many as earlier of the verdicts before the one that counts.
func askImage(ctx context.Context, server, reference string, earlier int) (image console.Image, err error) {
	if err := checkReference(reference); err != nil {
		return console.Image{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	query := url.Values{"history": {strconv.Itoa(earlier)}}
	if err := askAdmin(ctx, server, http.MethodGet, "images/"+reference, query, nil, &image); err != nil {
		return console.Image{}, fmt.Errorf("%s: %w", reference, err)
	}
	return image, nil
}
