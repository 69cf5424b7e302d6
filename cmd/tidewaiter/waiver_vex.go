package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/report"
	"github.com/tidewaiter/tidewaiter/review"
	"github.com/tidewaiter/tidewaiter/signing"
)

func newWaiverExport(inv *invocation) *cobra.Command {
	server, format := "", ""
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the exceptions from advisories that count as OpenVEX",
		Long: `Write the exceptions from advisories that count as a document of OpenVEX. A waiver is a risk somebody accepted, so its statement says
"affected", and that it is accepted, by whom, until when and why. One whose reason begins with a justification of OpenVEX, such as
"vulnerable_code_not_present: …", says "not_affected". Waivers of rules are about no advisory and are left out. Where
none is left no document is written: the format has none without a statement.`,
		Example: "  tidewaiter waiver export -o openvex > waivers.openvex.json",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			waivers, err := askWaivers(cmd.Context(), server, string(review.Live))
			if err != nil {
				return err
			}
			e := report.Exceptions{Version: version, Created: time.Now()}
			left := 0
			for _, s := range waivers {
				if s.Vulnerability == "" {
					left++
					continue
				}
				by := s.By
				if s.ApprovedBy != "" {
					by += " and " + s.ApprovedBy
				}
				e.Exceptions = append(e.Exceptions, report.Exception{
					ID: s.ID, Vulnerability: s.Vulnerability, Package: s.Package, Repositories: s.Repositories, Digest: s.Digest,
					Reason: s.Reason, Ticket: s.Ticket, By: by, From: s.GrantedAt, Until: s.Until,
				})
			}
			if left > 0 {
				inv.talk("%d waivers of rules are left out", left)
			}
			document, err := e.OpenVEX()
			if err != nil {
				return err
			}
			return inv.printDocument(document)
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "openvex", "what to write: openvex")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if format != "openvex" {
			return usageError(fmt.Errorf("output %q is not openvex", format))
		}
		return nil
	}
	withServer(cmd, &server)
	inv.withQuiet(cmd)
	return cmd
}

// maxVEXBytes bounds a document that is imported: a vendor's about a distribution has some megabytes.
const maxVEXBytes = 32 << 20

// maxImported bounds the waivers one import makes: each was meant to be looked at.
const maxImported = 1000

func newWaiverImport(inv *invocation) *cobra.Command {
	var d decision
	var repositories []string
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Grant exceptions by the statements of OpenVEX that say \"not affected\"",
		Long: `Grant an exception for each vulnerability, image and package that a document of OpenVEX says "not_affected" of, in your name: nobody checks
who wrote the document. Signed ones need no import; a policy's vex names whose count. Statements that name no image are about those of
--repository, and are left out without it. Other statuses grant nothing. A waiver holds for every version of a package, also where a statement names one.`,
		Example: "  tidewaiter waiver import vendor.openvex.json --repository docker.io/vendor/app --for 720h --reason \"by the vendor's word\"",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.check(true); err != nil {
				return err
			}
			document, err := readBounded(args[0], maxVEXBytes)
			if err != nil {
				return err
			}
			statements, err := signing.ReadOpenVEX(document)
			if err != nil {
				return usageError(fmt.Errorf("%s: %w", args[0], err))
			}
			asked, left := requestsOf(statements, repositories)
			if left > 0 {
				inv.talk("%d statements are left out: of another status, or about no image that is named", left)
			}
			if len(asked) > maxImported {
				return usageError(fmt.Errorf("%s asks for %d waivers, at most %d are granted at a time", args[0], len(asked), maxImported))
			}
			made, err := d.grantAll(cmd.Context(), asked)
			return errors.Join(inv.print(made, func(w io.Writer) error { return printWaivers(w, made) }), err)
		},
	}
	cmd.Flags().StringArrayVar(&repositories, "repository", nil, "pattern over full names, for statements that name no image; may be given several times")
	d.limited(cmd)
	inv.withOutput(cmd)
	inv.withQuiet(cmd)
	return cmd
}

func readBounded(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, usageError(err)
	}
	defer func() { _ = f.Close() }() // it was only read
	content, err := oci.ReadBounded(f, limit)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	return content, nil
}

// grantAll grants what is asked for, one after the other, and returns what was granted even when one was not.
func (d *decision) grantAll(ctx context.Context, asked []review.Request) ([]review.Standing, error) {
	until, err := d.end()
	made := []review.Standing{}
	for _, r := range asked {
		if err != nil {
			break
		}
		said := r.Reason
		r.Reason, r.Ticket, r.Until = d.reason, d.ticket, until
		if said != "" {
			r.Reason = said + ": " + d.reason
		}
		var granted []review.Standing
		granted, err = grantWaiver(ctx, d.server, console.Grant{Request: r, For: d.lasts()})
		made = append(made, granted...)
	}
	return made, err
}

// requestsOf returns the waivers that statements come to, each once, with the justification as the reason, and how many statements come
// to none. repositories are for those that name no image.
func requestsOf(statements []signing.VEXStatement, repositories []string) (asked []review.Request, left int) {
	for _, s := range statements {
		before := len(asked)
		if s.Status == gate.VEXNotAffected {
			products := s.Products
			if len(products) == 0 {
				products = []signing.VEXProduct{{}}
			}
			for _, p := range products {
				for _, r := range requestsOfProduct(s, p, repositories) {
					same := func(other review.Request) bool {
						return other.Vulnerability == r.Vulnerability && other.Package == r.Package && other.Digest == r.Digest &&
							slices.Equal(other.Repositories, r.Repositories)
					}
					if !slices.ContainsFunc(asked, same) {
						asked = append(asked, r)
					}
				}
			}
		}
		if len(asked) == before {
			left++
		}
	}
	return asked, left
}

func requestsOfProduct(s signing.VEXStatement, p signing.VEXProduct, repositories []string) (asked []review.Request) {
	about := review.Request{Repositories: repositories, Digest: p.Digest, Reason: s.Justification}
	if p.Repository != "" {
		about.Repositories = []string{p.Repository}
	}
	if len(about.Repositories) == 0 && about.Digest == "" {
		return nil
	}
	packages := []string{""}
	if len(p.Packages) > 0 {
		packages = nil
	}
	for _, named := range p.Packages {
		packages = append(packages, strings.TrimSuffix(named.Type+"/"+named.Name, "/"))
	}
	about.Vulnerability = s.Vulnerabilities[0]
	for _, alias := range s.Vulnerabilities {
		if strings.HasPrefix(strings.ToUpper(alias), "CVE-") { // which findings go by where there is one
			about.Vulnerability = alias
			break
		}
	}
	for _, about.Package = range packages {
		asked = append(asked, about)
	}
	return asked
}
