package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/trail"
)

// whole judges images with their children. It implements console.Judge.
type whole struct{ in *instance }

// Judge implements console.Judge.
func (w whole) Judge(ctx context.Context, c gate.Candidate) (gate.Verdict, error) {
	v, err := w.in.gate.Judge(ctx, c)
	if err != nil || !v.Allowed() || len(v.Children) == 0 {
		return v, err
	}
	held, err := w.in.quarantine.Hold(ctx, c)
	if err != nil {
		return gate.Verdict{}, &gate.NoVerdict{Step: gate.StepHold, Err: err}
	}
	platforms, err := parsePlatforms(w.in.config.Gate.Platforms)
	if err != nil {
		return gate.Verdict{}, err
	}
	children, _ := childrenFor(held.Manifest.Manifests, platforms) // for platforms it lacks there is nothing to judge
	for _, child := range children {
		of, err := w.in.gate.Judge(ctx, gate.Candidate{Repository: c.Repository, Digest: child})
		if err != nil || !of.Allowed() {
			return of, err
		}
	}
	return v, nil
}

func newEligible(inv *invocation) *cobra.Command {
	server := ""
	cmd := &cobra.Command{
		Use:   "eligible REF",
		Short: "Ask a running proxy for the newest digest of a tag that passes",
		Long: `Ask the admin address of a running proxy for the newest digest of a tag that passes now, of those the tag was seen to stand for
there, and why newer ones do not.

Exit codes: 0 there is one, 1 could not tell, 2 usage error, 3 none passes.`,
		Example: "  tidewaiter eligible --server http://127.0.0.1:5001 docker.io/library/nginx:1.27",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkReference(args[0]); err != nil {
				return err
			}
			var found console.Eligible
			ctx, cancel := context.WithTimeout(cmd.Context(), judgedTimeout)
			defer cancel()
			if err := askAdmin(ctx, server, http.MethodGet, "eligible", url.Values{"ref": {args[0]}}, nil, &found); err != nil {
				return err
			}
			if err := inv.print(found, func(w io.Writer) error { return printEligible(w, found) }); err != nil {
				return err
			}
			if found.Eligible == nil {
				return errDenied
			}
			return nil
		},
	}
	withServer(cmd, &server)
	inv.withOutput(cmd)
	return cmd
}

func printEligible(w io.Writer, found console.Eligible) error {
	var b strings.Builder
	if s := found.Eligible; s != nil {
		writeLine(&b, "ELIGIBLE  %s@%s", found.Reference, s.Digest)
		writeLine(&b, "  seen since %s, counts until %s", since(s.At), s.Until.Format(time.RFC3339))
	} else {
		writeLine(&b, "NONE  of what %s was seen to stand for passes", found.Reference)
	}
	for _, s := range found.Newer {
		writeLine(&b, "  %-5s %s, seen since %s: %s", s.Decision, s.Digest, since(s.At), s.Why)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// since returns when something was first seen, for a person.
func since(at time.Time) string {
	if at.IsZero() {
		return "just now"
	}
	return at.Format(time.RFC3339)
}

func newRecalls(inv *invocation) *cobra.Command {
	server := ""
	cmd := &cobra.Command{
		Use:     "recalls",
		Short:   "Ask a running proxy which images are withdrawn that somebody has, and who",
		Long:    "Ask the admin address of a running proxy which images were withdrawn after clients had pulled them, why, and who has them.",
		Example: "  tidewaiter recalls --server http://127.0.0.1:5001 -o json",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list console.RecallList
			ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
			defer cancel()
			if err := askAdmin(ctx, server, http.MethodGet, "recalls", nil, nil, &list); err != nil {
				return err
			}
			return inv.print(list, func(w io.Writer) error { return printRecalls(w, list) })
		},
	}
	withServer(cmd, &server)
	inv.withOutput(cmd)
	return cmd
}

func printRecalls(w io.Writer, list console.RecallList) error {
	var b strings.Builder
	for _, r := range list.Recalls {
		writeLine(&b, "WITHDRAWN  %s", gate.Candidate{Repository: r.Repository, Digest: r.Digest})
		if err := writeSeen(&b, &r.Recall, r.Pulls); err != nil {
			return err
		}
	}
	if list.More > 0 {
		writeLine(&b, "and %d more", list.More)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// seenVerdicts are verdicts on an image with who has it.
type seenVerdicts struct {
	Verdicts []explainedVerdict `json:"verdicts"`
	Recalled *trail.Recall      `json:"recalled,omitempty"`
	Pulls    trail.Pullers      `json:"pulls"`
}

// printSeenVerdicts writes verdicts on an image for a person, whether it is recalled, and who pulled it if that is so or wanted.
func printSeenVerdicts(w io.Writer, verdicts []gate.Verdict, image console.Image, pulls bool) error {
	var b strings.Builder
	if pulls || image.Recalled != nil {
		if err := writeSeen(&b, image.Recalled, image.Pulls); err != nil {
			return err
		}
	}
	if err := printVerdicts(w, verdicts); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeSeen writes why an image is recalled, if it is, and who pulled it.
func writeSeen(b *strings.Builder, r *trail.Recall, by trail.Pullers) error {
	if r != nil {
		writeLine(b, "  recalled  %s, by policy %s: %s", r.At.Format(time.RFC3339), r.Policy, strings.Join(r.Reasons, "; "))
	}
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, p := range by.Clients {
		writeRow(table, "  pulled    by "+p.Name, "at "+cmp.Or(p.Address, "an unknown address"), fmt.Sprintf("%d times", p.Count),
			"last "+p.Last.Format(time.RFC3339), p.Agent)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if by.Others > 0 {
		writeLine(b, "  pulled    by others too, %s times", by.Others)
	}
	return nil
}

// judgedTimeout bounds how long an answer is waited for that images may have to be judged for.
const judgedTimeout = 2 * time.Minute
