package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func newCheck(inv *invocation) *cobra.Command {
	var platforms []string
	cmd := &cobra.Command{
		Use:   "check REF",
		Short: "Judge one image as the proxy would, without serving it",
		Long: `Judge an image by the same gate, policies and storage as the proxy, from its upstream. Of an index, the index itself and its images
for --platform are judged.

Exit codes: 0 allowed, 1 could not tell, 2 usage or configuration error, 3 denied.`,
		Example: "  tidewaiter check --config tidewaiter.yaml docker.io/library/nginx:1.27",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return inv.withInstance(cmd.Context(), func(ctx context.Context, in *instance) error {
				if len(platforms) == 0 {
					platforms = in.config.Gate.Platforms
				}
				verdicts, err := in.check(ctx, args[0], platforms)
				if err != nil {
					return err
				}
				if err := inv.print(verdicts, func(w io.Writer) error { return printVerdicts(w, verdicts) }); err != nil {
					return err
				}
				if slices.ContainsFunc(verdicts, func(v gate.Verdict) bool { return !v.Allowed() }) {
					return errDenied
				}
				return nil
			})
		},
	}
	cmd.Flags().StringSliceVar(&platforms, "platform", nil, "platforms of an index to judge, os/architecture (default gate.platforms)")
	inv.withConfig(cmd)
	inv.withOutput(cmd)
	inv.withQuiet(cmd)
	return cmd
}

// withInstance runs do with an instance by the configuration, and closes it.
func (inv *invocation) withInstance(ctx context.Context, do func(context.Context, *instance) error) error {
	c, err := loadConfig(inv.configFile)
	if err != nil {
		return err
	}
	level := "warn" // a command's own output says what it did
	if inv.quiet {
		level = "error"
	}
	in, err := openInstance(ctx, c, newLogger(inv.stderr, level, "text"))
	if err != nil {
		return err
	}
	err = do(ctx, in)
	if closeErr := in.close(); err == nil {
		err = closeErr
	}
	return err
}

// resolve returns the candidate a reference names, and refuses what clients could not ask for either.
func (in *instance) resolve(ctx context.Context, reference string) (gate.Candidate, error) {
	ref, err := oci.ParseReference(reference, in.config.DefaultUpstream)
	if err != nil {
		return gate.Candidate{}, usageError(err)
	}
	if err := in.upstreams.Allowed(ref.Repository); err != nil {
		return gate.Candidate{}, &exitError{exitDenied, err}
	}
	if ref.Digest == "" {
		found, err := in.upstreams.Resolve(ctx, ref.Repository, ref.Tag)
		if err != nil {
			return gate.Candidate{}, fmt.Errorf("resolving %s: %w", ref, err)
		}
		ref.Digest = found.Descriptor.Digest
	}
	return gate.Candidate{Repository: ref.Repository, Digest: ref.Digest}, nil
}

// check judges what reference names and, if that is an index that is let through, its children for platforms.
func (in *instance) check(ctx context.Context, reference string, platforms []string) ([]gate.Verdict, error) {
	c, err := in.resolve(ctx, reference)
	if err != nil {
		return nil, err
	}
	v, err := in.gate.Judge(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("judging %s: %w", c, err)
	}
	verdicts := []gate.Verdict{v}
	if !v.Allowed() {
		return verdicts, nil
	}
	children, err := in.children(ctx, c, platforms)
	if err != nil {
		return nil, err
	}
	for _, child := range children {
		v, err := in.gate.Judge(ctx, child)
		if err != nil {
			return nil, fmt.Errorf("judging %s: %w", child, err)
		}
		verdicts = append(verdicts, v)
	}
	return verdicts, nil
}

// children returns the children of an index for platforms; none of an image.
func (in *instance) children(ctx context.Context, c gate.Candidate, platforms []string) ([]gate.Candidate, error) {
	held, err := in.quarantine.Hold(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("holding %s: %w", c, err)
	}
	var children []gate.Candidate
	for _, d := range held.Manifest.Manifests {
		if d.Platform != nil && slices.Contains(platforms, d.Platform.OS+"/"+d.Platform.Architecture) {
			children = append(children, gate.Candidate{Repository: c.Repository, Digest: d.Digest})
		}
	}
	return children, nil
}

// printVerdicts writes verdicts for a person.
func printVerdicts(w io.Writer, verdicts []gate.Verdict) error {
	var b strings.Builder
	for i, v := range verdicts {
		if i > 0 {
			b.WriteString("\n")
		}
		writeVerdict(&b, v)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeVerdict writes one verdict with everything it rests on.
func writeVerdict(b *strings.Builder, v gate.Verdict) {
	policy := "no policy matches"
	if v.Policy != "" {
		policy = "policy " + v.Policy
	}
	if v.File != "" {
		policy += fmt.Sprintf(" (%s:%d)", v.File, v.Line)
	}
	fmt.Fprintf(b, "%s  %s\n  %s, judged %s, counts until %s\n", strings.ToUpper(v.Decision.String()), v.Candidate(), policy,
		v.JudgedAt.Format(time.RFC3339), v.Until.Format(time.RFC3339))
	for _, list := range []struct {
		title   string
		reasons []gate.Reason
	}{{"denied", v.Reasons}, {"warning", v.Warnings}, {"waived", v.Waived}} {
		for _, r := range list.reasons {
			fmt.Fprintf(b, "  %-9s %s: %s\n", list.title, r.Rule, r.Message)
			if r.Waiver != "" {
				fmt.Fprintf(b, "            by %s\n", r.Waiver)
			}
		}
	}
	for _, s := range v.Signatures {
		fmt.Fprintf(b, "  signed    by %s (%s, key %s)\n", s.Authority, s.Format, s.Signer)
	}
	for _, r := range v.Rejections {
		fmt.Fprintf(b, "  refused   a signature offered in %s: %s\n", r.Manifest, r.Why)
	}
	fmt.Fprintf(b, "  findings  %d in %d packages%s\n", len(v.Findings), v.Packages, incomplete(v))
	for _, f := range v.Findings {
		fmt.Fprintf(b, "    %-9s %-18s %s %s", f.Severity, f.ID, f.Package.Name, f.Package.Version)
		if f.FixedVersion != "" {
			fmt.Fprintf(b, ", fixed in %s", f.FixedVersion)
		}
		fmt.Fprintf(b, "  [%s]\n", f.Path)
	}
}

func incomplete(v gate.Verdict) string {
	if v.Complete {
		return ""
	}
	return " (the layers were not looked into: the refusal was certain without them)"
}
