package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func newCheck(inv *invocation) *cobra.Command {
	var asked []string
	cmd := &cobra.Command{
		Use:   "check REF",
		Short: "Judge one image as the proxy would, without serving it",
		Long: `Judge an image by the same gate, policies and storage as the proxy, from its upstream or as it was pushed here, and examine all of it even where it is refused
without. Of an index, the index itself is judged, its images for --platform, and those that name no platform.

SARIF has what was found and why it is denied, for code scanning; CycloneDX the packages and their vulnerabilities; SPDX
the packages with references to their advisories; OpenVEX a statement for every finding: waived ones with the waiver's reason, excused ones
as they were stated. Without findings no OpenVEX is written. Their time is that of the verdict, or SOURCE_DATE_EPOCH.

Exit codes: 0 allowed, 1 could not tell, 2 usage or configuration error, 3 denied.`,
		Example: "  tidewaiter check --config tidewaiter.yaml docker.io/library/nginx:1.27\n  tidewaiter check docker.io/library/nginx:1.27 -o sarif > nginx.sarif",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			platforms, err := parsePlatforms(asked)
			if err != nil {
				return usageError(err)
			}
			return inv.withInstance(cmd.Context(), func(ctx context.Context, in *instance) error {
				verdicts, err := in.check(ctx, args[0], platforms)
				if err != nil {
					return err
				}
				if err := inv.printCheck(ctx, in, args[0], verdicts); err != nil {
					return err
				}
				if slices.ContainsFunc(verdicts, func(v gate.Verdict) bool { return !v.Allowed() }) {
					return errDenied
				}
				return nil
			})
		},
	}
	cmd.Flags().StringSliceVar(&asked, "platform", nil,
		"platforms an index must have, whose images are judged, os/architecture[/variant] (default those of gate.platforms it has)")
	inv.withConfig(cmd)
	inv.withFormats(cmd, formatSARIF, formatCycloneDX, formatSPDX, formatOpenVEX)
	inv.withQuiet(cmd)
	return cmd
}

// printCheck writes what was decided in the format that was asked for.
func (inv *invocation) printCheck(ctx context.Context, in *instance, reference string, verdicts []gate.Verdict) error {
	if inv.renderer() == nil {
		return inv.print(explained(verdicts), func(w io.Writer) error { return printVerdicts(w, verdicts) })
	}
	r, err := in.checkReport(ctx, reference, verdicts)
	if err != nil {
		return err
	}
	return inv.printReport(r)
}

// withInstance runs do with an instance by the configuration, and closes it.
func (inv *invocation) withInstance(ctx context.Context, do func(context.Context, *instance) error) error {
	c, err := loadInstallation(inv.configFile)
	if err != nil {
		return err
	}
	level, bar, talk := "warn", newProgress(inv.stderr), inv.stderr // a command's own output says what it did
	if inv.quiet {
		level, bar = "error", nil
	}
	if bar != nil {
		talk = bar
	}
	in, err := openShown(ctx, c, newLogger(talk, level, "text"), bar)
	if err != nil {
		return err
	}
	err = do(ctx, in)
	bar.end()
	if closeErr := in.close(); err == nil {
		err = closeErr
	}
	return err
}

// resolve returns the candidate a reference names, and refuses what clients could not ask for either.
func (in *instance) resolve(ctx context.Context, reference string) (gate.Candidate, error) {
	ref, err := oci.ParseReference(reference, in.config.DefaultUpstream, in.hosted.Hosts)
	if err != nil {
		return gate.Candidate{}, usageError(err)
	}
	if ref.Repository.Upstream != "" {
		if err := in.upstreams.Allowed(ref.Repository); err != nil {
			return gate.Candidate{}, &exitError{exitDenied, err}
		}
	}
	if ref.Digest == "" {
		desc, _, err := in.contents().Resolve(ctx, ref.Repository, ref.Tag)
		if err != nil {
			return gate.Candidate{}, fmt.Errorf("resolving %s: %w", ref, err)
		}
		ref.Digest = desc.Digest
	}
	return gate.Candidate{Repository: ref.Repository, Digest: ref.Digest}, nil
}

// check judges what reference names and, if that is an index that is let through, its children for platforms; none means those of
// gate.platforms that there are.
func (in *instance) check(ctx context.Context, reference string, platforms []platform) ([]gate.Verdict, error) {
	c, err := in.resolve(ctx, reference)
	if err != nil {
		return nil, err
	}
	v, err := in.gate.Examine(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("judging %s: %w", c, err)
	}
	v = in.withTag(v, reference)
	verdicts := []gate.Verdict{v}
	if !v.Allowed() {
		return verdicts, nil
	}
	children, err := in.children(ctx, c, platforms)
	if err != nil {
		return nil, err
	}
	for _, child := range children {
		v, err := in.gate.Examine(ctx, child)
		if err != nil {
			return nil, fmt.Errorf("judging %s: %w", child, err)
		}
		verdicts = append(verdicts, v)
	}
	return verdicts, nil
}

// children returns the children of an index for platforms, at least one, and none of an image. An index must have every platform that
// was asked for; where none was, one of gate.platforms.
func (in *instance) children(ctx context.Context, c gate.Candidate, platforms []platform) ([]gate.Candidate, error) {
	held, err := in.quarantine.Hold(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("holding %s: %w", c, err)
	}
	if !held.Manifest.IsIndex() {
		return nil, nil
	}
	asked := platforms
	if len(asked) == 0 {
		if platforms, err = parsePlatforms(in.config.Gate.Platforms); err != nil {
			return nil, err
		}
	}
	digests, missing := childrenFor(held.Manifest.Manifests, platforms)
	switch {
	case len(asked) > 0 && len(missing) > 0:
		return nil, usageError(fmt.Errorf("%s has no image for %s", c, platformNames(missing)))
	case len(digests) == 0:
		return nil, fmt.Errorf("%s has no image for %s", c, platformNames(platforms))
	}
	var children []gate.Candidate
	for _, d := range digests {
		children = append(children, gate.Candidate{Repository: c.Repository, Digest: d})
	}
	return children, nil
}

// platformNames returns platforms for a person.
func platformNames(platforms []platform) string {
	var names []string
	for _, p := range platforms {
		names = append(names, p.String())
	}
	return strings.Join(names, ", ")
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
	explanations := console.Explain(v)
	policy := "no policy matches"
	if v.Policy != "" {
		policy = "policy " + v.Policy
	}
	if v.File != "" {
		policy += fmt.Sprintf(" (%s:%d)", v.File, v.Line)
	}
	writeLine(b, "%s  %s", strings.ToUpper(v.Decision.String()), v.Candidate())
	writeLine(b, "  %s, judged %s, counts until %s", policy, v.JudgedAt.Format(time.RFC3339), v.Until.Format(time.RFC3339))
	for _, list := range []struct {
		title   string
		reasons []gate.Reason
	}{{"denied", v.Reasons}, {"warning", v.Warnings}, {"waived", v.Waived}, {"excused", v.Excused}} {
		for _, r := range list.reasons {
			writeLine(b, "  %-9s %s: %s", list.title, r.Rule, r.Message)
			writeExplanation(b, explanations, r)
			if r.Waiver != "" {
				writeLine(b, "            by %s", r.Waiver)
			}
			if r.Excuse != nil {
				writeLine(b, "            %s", r.Excuse)
			}
		}
	}
	for _, s := range v.Signatures {
		writeLine(b, "  signed    by %s (%s, key %s)", s.Authority, s.Format, s.Signer)
	}
	for _, r := range v.Rejections {
		writeLine(b, "  refused   a signature offered in %s: %s", r.Manifest, r.Why)
	}
	writeLine(b, "  findings  %d in %d packages%s", len(v.Findings), v.Packages, incomplete(v))
	for _, f := range v.Findings {
		fixed := ""
		if f.FixedVersion != "" {
			fixed = ", fixed in " + f.FixedVersion
		}
		writeLine(b, "    %-9s %-18s %s %s%s  [%s]", f.Severity, f.ID, f.Package.Name, f.Package.Version, fixed, f.Path)
	}
}

func incomplete(v gate.Verdict) string {
	if v.Complete {
		return ""
	}
	if v.Allowed() {
		return " (what the policy only warns of is still looked for)"
	}
	return " (the layers were not looked into: the refusal was certain without them)"
}
