package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/report"
)

// The formats other programs read, as -o names them.
const (
	formatCycloneDX = "cyclonedx"
	formatSPDX      = "spdx"
	formatSARIF     = "sarif"
	formatOpenVEX   = "openvex"
)

// renderer returns what writes a report in the format that was asked for; nil for text and json, which are our own.
func (inv *invocation) renderer() func(report.Report) ([]byte, error) {
	switch inv.output {
	case formatCycloneDX:
		return report.CycloneDX
	case formatSPDX:
		return report.SPDX
	case formatSARIF:
		return report.SARIF
	case formatOpenVEX:
		return report.OpenVEX
	}
	return nil
}

// withFormats is withOutput for a command that prints reports too.
func (inv *invocation) withFormats(cmd *cobra.Command, formats ...string) {
	all := append([]string{"text", "json"}, formats...)
	names := strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
	cmd.Flags().StringVarP(&inv.output, "output", "o", "text", names)
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if !slices.Contains(all, inv.output) {
			return usageError(fmt.Errorf("output %q is not %s", inv.output, names))
		}
		return nil
	}
}

// printReport writes a report in the format that was asked for, or says that the format has nothing to write.
func (inv *invocation) printReport(r report.Report) error {
	document, err := inv.renderer()(r)
	if err != nil {
		return fmt.Errorf("writing %s: %w", inv.output, err)
	}
	return inv.printDocument(document)
}

// printDocument writes a document, which nil is not.
func (inv *invocation) printDocument(document []byte) error {
	if document == nil {
		inv.talk("there is nothing to state, and OpenVEX has no document without a statement: no document is written")
		return nil
	}
	_, err := io.WriteString(inv.stdout, escapedJSON(document))
	return err
}

// checkReport returns what is reported of images that were judged: their inventories too, of which no layer is read again.
func (in *instance) checkReport(ctx context.Context, reference string, verdicts []gate.Verdict) (report.Report, error) {
	r, err := in.newReport(reference, verdicts[0].JudgedAt)
	if err != nil {
		return report.Report{}, err
	}
	for _, v := range verdicts {
		i := report.Image{Candidate: v.Candidate(), Verdict: &v}
		if m := (oci.Manifest{MediaType: v.MediaType}); !m.IsIndex() {
			if i.Inventory, err = in.gate.Inventory(ctx, v.Candidate()); err != nil {
				return report.Report{}, fmt.Errorf("reading %s: %w", v.Candidate(), err)
			}
		}
		r.Images = append(r.Images, i)
	}
	return r, nil
}

// newReport returns a report without images about what reference names. It was made when the environment says, so that equal inputs can
// be equal documents (reproducible-builds.org, SOURCE_DATE_EPOCH), else at the time given.
func (in *instance) newReport(reference string, at time.Time) (report.Report, error) {
	ref, err := oci.ParseReference(reference, in.config.DefaultUpstream, in.hosted.Hosts)
	if err != nil {
		return report.Report{}, usageError(err)
	}
	if epoch := environment("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return report.Report{}, usageError(fmt.Errorf("SOURCE_DATE_EPOCH %.40q is not a number of seconds", epoch))
		}
		at = time.Unix(seconds, 0)
	}
	return report.Report{Name: ref.String(), Version: version, Created: at.UTC()}, nil
}
