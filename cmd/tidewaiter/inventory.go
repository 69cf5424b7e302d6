package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/report"
)

// imageInventory is what the command prints.
type imageInventory struct {
	Repository string     `json:"repository"`
	Digest     oci.Digest `json:"digest"`
	gate.Inventory

	candidate gate.Candidate
}

func newInventory(inv *invocation) *cobra.Command {
	asked := ""
	cmd := &cobra.Command{
		Use:   "inventory REF",
		Short: "List the packages of an image",
		Long: `List the packages of an image, from its upstream, whatever the policy says of it. Layers read before, by any command or the proxy over
the same storage, are not read again. What could not be examined is listed as gaps. CycloneDX and SPDX are bills of materials; SARIF has the
gaps, for code scanning. Their time is now, or SOURCE_DATE_EPOCH.`,
		Example: "  tidewaiter inventory docker.io/library/nginx:1.27 --platform linux/arm64 -o json\n  tidewaiter inventory docker.io/library/nginx:1.27 -o cyclonedx > nginx.cdx.json",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			platform, err := parsePlatform(asked)
			if err != nil {
				return usageError(err)
			}
			return inv.withInstance(cmd.Context(), func(ctx context.Context, in *instance) error {
				found, err := in.inventory(ctx, args[0], platform)
				if err != nil {
					return err
				}
				if inv.renderer() != nil {
					r, err := in.newReport(args[0], time.Now())
					if err != nil {
						return err
					}
					r.Images = []report.Image{{Candidate: found.candidate, Inventory: found.Inventory}}
					return inv.printReport(r)
				}
				return inv.print(found, func(w io.Writer) error { return printInventory(w, found) })
			})
		},
	}
	cmd.Flags().StringVar(&asked, "platform", "linux/amd64", "which image of an index, os/architecture[/variant]")
	inv.withConfig(cmd)
	inv.withFormats(cmd, formatCycloneDX, formatSPDX, formatSARIF)
	inv.withQuiet(cmd)
	return cmd
}

func (in *instance) inventory(ctx context.Context, reference string, asked platform) (imageInventory, error) {
	c, err := in.resolve(ctx, reference)
	if err != nil {
		return imageInventory{}, err
	}
	children, err := in.children(ctx, c, []platform{asked})
	if err != nil {
		return imageInventory{}, err
	}
	if len(children) > 0 {
		c = children[0]
	}
	found, err := in.gate.Inventory(ctx, c)
	if err != nil {
		return imageInventory{}, fmt.Errorf("reading %s: %w", c, err)
	}
	return imageInventory{Repository: c.Repository.String(), Digest: c.Digest, Inventory: found, candidate: c}, nil
}

func printInventory(w io.Writer, found imageInventory) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	writeLine(table, "# %s@%s", found.Repository, found.Digest)
	writeLine(table, "# %s %s, %d packages", found.OS.ID, found.OS.Version, len(found.Packages))
	writeRow(table, "TYPE", "NAME", "VERSION", "FOUND IN")
	for _, p := range found.Packages {
		writeRow(table, p.Type, p.Name, p.Version, p.Path)
	}
	for _, g := range found.Gaps {
		writeRow(table, "gap", g.Kind, g.Why, g.Path)
	}
	return table.Flush()
}
