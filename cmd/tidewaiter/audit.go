package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/audit"
)

func newAudit(inv *invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "audit",
		Short:   "Work with the audit log",
		Example: "  tidewaiter audit verify --config /etc/tidewaiter/tidewaiter.yaml",
		Args:    onlyCommands,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAuditVerify(inv))
	return cmd
}

func newAuditVerify(inv *invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that the audit log is as it was written",
		Long: `Read the audit log of a configuration and check every line: its mark, its place in the chain, and that none is missing up to the head that
lies beside it. It may be run while the proxy writes. It needs the seal key. What it cannot see is that an older copy of both files was
put back: compare the number of records and the hash it prints with what the proxy's own log said.

Exit codes: 0 whole, 1 could not tell, 2 usage error, 3 broken; then the line is named.`,
		Example: "  tidewaiter audit verify --config /etc/tidewaiter/tidewaiter.yaml -o json",
		Args:    exactly(0),
		RunE: func(*cobra.Command, []string) error {
			c, err := loadConfig(inv.configFile)
			if err != nil {
				return err
			}
			if c.Audit.Path == "" {
				return usageError(errors.New("audit.path is not configured: there is no audit log"))
			}
			key, err := loadSealKey(c)
			if err != nil {
				return err
			}
			report, err := audit.Verify(c.Audit.Path, key)
			if err != nil {
				return err
			}
			if err := inv.print(report, func(w io.Writer) error { return printReport(w, c.Audit.Path, report) }); err != nil {
				return err
			}
			if !report.Whole {
				return &exitError{exitDenied, fmt.Errorf("%s is broken at line %d: %s", c.Audit.Path, report.Broken.Line, report.Broken.Reason)}
			}
			return nil
		},
	}
	inv.withConfig(cmd)
	inv.withOutput(cmd)
	return cmd
}

func printReport(w io.Writer, path string, r audit.Report) error {
	var b strings.Builder
	writeLine(&b, "%s: %s records hold", path, r.Records)
	if r.Records > 0 {
		writeLine(&b, "from %s to %s", r.First.Format(time.RFC3339), r.Last.Format(time.RFC3339))
		writeLine(&b, "hash of the last: %s", r.Hash)
	}
	for _, t := range r.Torn {
		writeLine(&b, "line %d: %s bytes were not written to their end, as a crash leaves them", t.Line, t.Bytes)
	}
	if r.Broken != nil {
		writeLine(&b, "broken at line %d: %s", r.Broken.Line, r.Broken.Reason)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
