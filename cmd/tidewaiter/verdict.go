package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
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
			var told any = verdicts
			if pulls {
				told = seenVerdicts{verdicts, image.Recalled, image.Pulls}
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
	cmd.Flags().StringVar(&server, "server", "http://127.0.0.1:5001", "admin address of the proxy")
	cmd.Flags().BoolVar(&history, "history", false, "print the verdicts made on the image before, too, newest first")
	cmd.Flags().BoolVar(&pulls, "pulls", false, "print who pulled the image, too; as JSON, one object with verdicts, recalled and pulls")
	inv.withOutput(cmd)
	return cmd
}

// askImage asks the admin API at server about an image, and as many as earlier of the verdicts before the one that counts.
func askImage(ctx context.Context, server, reference string, earlier int) (console.Image, error) {
	base, err := url.Parse(server)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return console.Image{}, usageError(fmt.Errorf("server %q is not an http or https URL", server))
	}
	if _, err := oci.ParseReference(reference, anyUpstream, nil); err != nil {
		return console.Image{}, usageError(err)
	}
	asked := url.URL{
		Scheme: base.Scheme, User: base.User, Host: base.Host, Path: strings.TrimSuffix(base.Path, "/") + "/api/v1/images/" + reference,
		RawQuery: url.Values{"history": {strconv.Itoa(earlier)}}.Encode(),
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, asked.String(), nil)
	if err != nil {
		return console.Image{}, usageError(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return console.Image{}, fmt.Errorf("asking %s: %w", server, err)
	}
	defer func() { _ = resp.Body.Close() }() // it has been read, or has failed
	body, err := oci.ReadBounded(resp.Body, maxAnswerBytes)
	if err != nil {
		return console.Image{}, fmt.Errorf("asking %s: %w", server, err)
	}
	if resp.StatusCode != http.StatusOK {
		var failure struct{ Error string }
		if err := json.Unmarshal(body, &failure); err != nil {
			return console.Image{}, fmt.Errorf("asking %s: %s", server, resp.Status)
		}
		return console.Image{}, fmt.Errorf("%s: %s", reference, failure.Error)
	}
	var image console.Image
	if err := json.Unmarshal(body, &image); err != nil {
		return console.Image{}, fmt.Errorf("reading the answer of %s: %w", server, err)
	}
	return image, nil
}
