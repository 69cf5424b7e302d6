package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/review"
)

func newQuarantine(inv *invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "quarantine",
		Short:   "Decide about images that are denied",
		Example: "  tidewaiter quarantine list --severity critical",
		Args:    onlyCommands,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newQuarantineList(inv), newQuarantineShow(inv), newQuarantineRead(inv), newQuarantineRelease(inv), newQuarantineDrop(inv))
	return cmd
}

func newQuarantineList(inv *invocation) *cobra.Command {
	var server, repository, rule, severity string
	limit := 0
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the images that are denied and kept, the one judged last first",
		Example: "  tidewaiter quarantine list --repository 'docker.io/**' --severity critical -o json",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usageError(errors.New("--limit must not be negative"))
			}
			images, more, err := askQuarantine(cmd.Context(), server, limit, url.Values{"repository": {repository}, "rule": {rule}, "severity": {severity}})
			if err != nil {
				return err
			}
			if more {
				inv.talk("there are more: raise --limit")
			}
			return inv.print(images, func(w io.Writer) error { return printItems(w, images) })
		},
	}
	cmd.Flags().StringVar(&repository, "repository", "", "those of repositories this pattern matches")
	cmd.Flags().StringVar(&rule, "rule", "", "those this rule denies, among others")
	cmd.Flags().StringVar(&severity, "severity", "", "those with a finding of at least this severity: low, medium, high or critical")
	cmd.Flags().IntVar(&limit, "limit", 1000, "how many at most; 0 for all")
	withServer(cmd, &server)
	inv.withOutput(cmd)
	inv.withQuiet(cmd)
	return cmd
}

// askQuarantine returns what lies in quarantine, page by page, at most limit images; all for 0.
func askQuarantine(ctx context.Context, server string, limit int, query url.Values) (images []review.Item, more bool, err error) {
	for key, values := range query {
		if values[0] == "" {
			query.Del(key)
		}
	}
	images = []review.Item{} // none is a list too
	for {
		n := review.MaxPage
		if limit > 0 {
			n = min(n, limit-len(images))
		}
		query.Set("n", strconv.Itoa(n))
		asking, cancel := context.WithTimeout(ctx, askTimeout)
		var page review.Page
		err := askAdmin(asking, server, http.MethodGet, "quarantine", query, nil, &page)
		cancel()
		if err != nil {
			return nil, false, err
		}
		images = append(images, page.Images...)
		if page.Next == "" || limit > 0 && len(images) >= limit {
			return images, page.Next != "", nil
		}
		query.Set("after", page.Next)
	}
}

func printItems(w io.Writer, images []review.Item) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	writeRow(table, "IMAGE", "FIRST SEEN", "ASKED FOR", "FINDINGS", "WHY")
	for _, i := range images {
		writeRow(table, i.Reference(), i.FirstSeen.UTC().Format(time.RFC3339), i.Asked.Count, printedFindings(i), i.Why)
	}
	return table.Flush()
}

// printedFindings returns how many findings there are of each severity, the worst first.
func printedFindings(i review.Item) string {
	var all []string
	for s := gate.Critical; s >= gate.Unrated; s-- {
		if n := i.Findings[s.String()]; n > 0 {
			all = append(all, fmt.Sprintf("%d %s", n, s))
		}
	}
	return strings.Join(all, " ")
}

func newQuarantineShow(inv *invocation) *cobra.Command {
	server := ""
	cmd := &cobra.Command{
		Use:     "show REF",
		Short:   "Show everything there is to decide by about a denied image",
		Example: "  tidewaiter quarantine show docker.io/library/nginx:1.27",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkReference(args[0]); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
			defer cancel()
			var detail review.Detail
			if err := askAdmin(ctx, server, http.MethodGet, "quarantine/"+args[0], nil, nil, &detail); err != nil {
				return err
			}
			return inv.print(detail, func(w io.Writer) error { return printDetail(w, detail) })
		},
	}
	withServer(cmd, &server)
	inv.withOutput(cmd)
	return cmd
}

func printDetail(w io.Writer, d review.Detail) error {
	if err := printVerdicts(w, []gate.Verdict{d.Verdict}); err != nil {
		return err
	}
	var b strings.Builder
	writeLine(&b, "first seen %s", d.FirstSeen.UTC().Format(time.RFC3339))
	if a := d.Asked; a.Count > 0 {
		writeLine(&b, "asked for %s times, first by %s %s at %s, last by %s %s at %s", a.Count, a.First.By, a.First.Address,
			a.First.At.UTC().Format(time.RFC3339), a.Last.By, a.Last.Address, a.Last.At.UTC().Format(time.RFC3339))
	}
	if !d.Held {
		writeLine(&b, "its bytes are not held")
	}
	if d.DroppedBy != "" {
		writeLine(&b, "dropped by %s at %s: %s", d.DroppedBy, d.DroppedAt.UTC().Format(time.RFC3339), d.DroppedReason)
	}
	for _, l := range d.Layers {
		writeLine(&b, "layer %s %s, %s bytes", l.Digest, l.MediaType, l.Size)
	}
	if _, err := io.WriteString(w, b.String()); err != nil || len(d.Waivers) == 0 {
		return err
	}
	return printWaivers(w, d.Waivers)
}

func newQuarantineRead(inv *invocation) *cobra.Command {
	var server, blob, file string
	cmd := &cobra.Command{
		Use:   "read REF@DIGEST",
		Short: "Read the manifest of a denied image, or one of its blobs, for forensics",
		Long: `Read the manifest of a denied image as it lies in quarantine, or one of its blobs. That goes on record. What is read is what the gate
denied: nothing about it is safe.`,
		Example: "  tidewaiter quarantine read docker.io/library/nginx@sha256:… --blob sha256:… --file layer.bin",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ref, err := oci.ParseReference(args[0], anyUpstream, nil)
			if err != nil {
				return usageError(err)
			}
			if ref.Digest == "" {
				return usageError(errors.New("want a reference by digest: a tag may stand for another image by now"))
			}
			path := "quarantine/" + args[0] + "/manifest"
			if blob != "" {
				if _, err := oci.ParseDigest(blob); err != nil {
					return usageError(err)
				}
				path = "quarantine/" + args[0] + "/blobs/" + blob
			}
			resp, err := openAdmin(cmd.Context(), server, http.MethodGet, path, nil, nil)
			if err != nil {
				return err
			}
			defer func() { _ = resp.Body.Close() }() // it has been read, or has failed
			out := inv.stdout
			if file != "" {
				f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, f.Close()) }()
				out = f
			}
			if n, err := io.Copy(out, resp.Body); err != nil || n != resp.ContentLength {
				return fmt.Errorf("reading %s: it ends after %d of %d bytes: %w", args[0], n, resp.ContentLength, errors.Join(err, io.ErrUnexpectedEOF))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&blob, "blob", "", "digest of a blob of the image; none for its manifest")
	cmd.Flags().StringVar(&file, "file", "", "new file to write to; none for standard output")
	withServer(cmd, &server)
	return cmd
}

// decision is why something is decided, and for how long.
type decision struct {
	server, reason, ticket string
	life                   time.Duration
	until                  string
}

// limited gives a command the flags of a decision that does not hold for ever.
func (d *decision) limited(cmd *cobra.Command) {
	d.reasoned(cmd)
	cmd.Flags().StringVar(&d.ticket, "ticket", "", "where more is written about it")
	cmd.Flags().DurationVar(&d.life, "for", 0, "how long it holds, at most waiver_max of the policy files")
	cmd.Flags().StringVar(&d.until, "until", "", "until when it holds, RFC 3339, in place of --for")
}

// reasoned gives a command the flags of a decision.
func (d *decision) reasoned(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.reason, "reason", "", "why; required, and shown with every verdict that leans on it")
	withServer(cmd, &d.server)
}

// check returns what is missing.
func (d *decision) check(limited bool) error {
	switch {
	case strings.TrimSpace(d.reason) == "":
		return usageError(errors.New("--reason is required"))
	case limited && (d.life == 0) == (d.until == ""):
		return usageError(errors.New("want one of --for and --until: nothing is let through for ever"))
	case d.life < 0:
		return usageError(errors.New("--for must be positive"))
	}
	if _, err := d.end(); err != nil {
		return usageError(fmt.Errorf("--until: %w", err))
	}
	return nil
}

func (d *decision) end() (time.Time, error) {
	if d.until == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339, d.until)
}

// lasts returns d.life as the admin API takes it.
func (d *decision) lasts() string {
	if d.life == 0 {
		return ""
	}
	return d.life.String()
}

func newQuarantineRelease(inv *invocation) *cobra.Command {
	var d decision
	cmd := &cobra.Command{
		Use:   "release REF",
		Short: "Let a denied image through for a time",
		Long: `Waive each of the reasons an image is denied for now, for its digest in its repository, and have it judged anew. What is found later
denies it again. Where two people decide, it counts once somebody else approves it with "tidewaiter waiver approve".

Exit codes: 0 allowed now, or pending, 1 could not tell, 2 usage error, 3 denied still, for the reasons printed.`,
		Example: "  tidewaiter quarantine release docker.io/library/nginx:1.27 --for 72h --reason \"not reachable, fixed next week\" --ticket OPS-12",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(checkReference(args[0]), d.check(true)); err != nil {
				return usageError(err)
			}
			until, err := d.end()
			if err != nil {
				return usageError(err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), decideTimeout)
			defer cancel()
			var released review.Released
			body := console.Release{Reason: d.reason, Ticket: d.ticket, For: d.lasts(), Until: until}
			if err := askAdmin(ctx, d.server, http.MethodPost, "quarantine/"+args[0]+"/release", nil, body, &released); err != nil {
				return err
			}
			if err := inv.print(released, func(w io.Writer) error { return printReleased(w, released) }); err != nil {
				return err
			}
			if released.Pending {
				inv.talk("somebody else has to approve it: tidewaiter waiver approve %s", printable(released.Waivers[0].Release))
				return nil
			}
			if !released.Verdict.Allowed() {
				return errDenied
			}
			return nil
		},
	}
	d.limited(cmd)
	inv.withOutput(cmd)
	inv.withQuiet(cmd)
	return cmd
}

func printReleased(w io.Writer, r review.Released) error {
	if err := printWaivers(w, r.Waivers); err != nil || r.Pending {
		return err
	}
	return printVerdicts(w, []gate.Verdict{r.Verdict})
}

func newQuarantineDrop(inv *invocation) *cobra.Command {
	var d decision
	cmd := &cobra.Command{
		Use:   "drop REF",
		Short: "Delete the bytes of a denied image",
		Long: `Delete the bytes of a denied image, as far as no other image holds them. The verdict and its record stay. Whoever asks for the image
is refused as before; when the verdict has lapsed it is fetched again and judged again. Of a hosted repository its tags go too.`,
		Example: "  tidewaiter quarantine drop docker.io/library/nginx@sha256:… --reason \"malware\"",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(checkReference(args[0]), d.check(false)); err != nil {
				return usageError(err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
			defer cancel()
			var nothing struct{}
			if err := askAdmin(ctx, d.server, http.MethodPost, "quarantine/"+args[0]+"/drop", nil, console.Reasoned{Reason: d.reason}, &nothing); err != nil {
				return err
			}
			inv.talk("%s is dropped; its record stays", printable(args[0]))
			return nil
		},
	}
	d.reasoned(cmd)
	inv.withQuiet(cmd)
	return cmd
}
