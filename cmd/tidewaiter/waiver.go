package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/review"
)

func newWaiver(inv *invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "waiver",
		Short:   "Grant, list and revoke exceptions from what policies demand",
		Example: "  tidewaiter waiver list --state live",
		Args:    onlyCommands,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newWaiverList(inv), newWaiverGrant(inv), newWaiverApprove(inv), newWaiverRevoke(inv), newWaiverExport(inv), newWaiverImport(inv))
	return cmd
}

// askWaivers returns the waivers in a state, or all.
func askWaivers(ctx context.Context, server, state string) ([]review.Standing, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	query := url.Values{}
	if state != "" {
		query.Set("state", state)
	}
	var list console.WaiverList
	err := askAdmin(ctx, server, http.MethodGet, "waivers", query, nil, &list)
	return list.Waivers, err
}

func newWaiverList(inv *invocation) *cobra.Command {
	var server, state string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List exceptions, those of the policy files first, then those granted, newest first",
		Example: "  tidewaiter waiver list --state pending -o json",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			waivers, err := askWaivers(cmd.Context(), server, state)
			if err != nil {
				return err
			}
			return inv.print(waivers, func(w io.Writer) error { return printWaivers(w, waivers) })
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "those that are pending, live, revoked, expired or doubted")
	withServer(cmd, &server)
	inv.withOutput(cmd)
	return cmd
}

func printWaivers(w io.Writer, waivers []review.Standing) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	writeRow(table, "WAIVER", "STATE", "WHAT", "WHERE", "UNTIL", "BY", "WHY")
	for _, s := range waivers {
		what := s.Vulnerability + string(s.Rule)
		if s.Package != "" {
			what += " in " + s.Package
		}
		if s.Says != "" {
			what += ": " + s.Says
		}
		where := strings.Join(s.Repositories, " ")
		if s.Digest != "" {
			where = strings.TrimSpace(where + " " + s.Digest.String())
		}
		by, why := s.By, s.Reason
		if s.ApprovedBy != "" {
			by += " and " + s.ApprovedBy
		}
		if s.Ticket != "" {
			why += " (" + s.Ticket + ")"
		}
		writeRow(table, cmp.Or(s.ID, "in a file"), s.State, what, where, s.Until.UTC().Format(time.RFC3339), by, why)
	}
	return table.Flush()
}

func newWaiverGrant(inv *invocation) *cobra.Command {
	var d decision
	var asked review.Request
	var rule, digest string
	cmd := &cobra.Command{
		Use:   "grant",
		Short: "Grant an exception for a time",
		Long: `Grant an exception from one advisory, perhaps in one package, or from one rule, for repositories or one digest. Where two people decide, it
counts once somebody else approves it.`,
		Example: "  tidewaiter waiver grant --vulnerability CVE-2024-0001 --package deb/openssl --repository docker.io/library/nginx --for 720h --reason \"not reachable\" --ticket OPS-12",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := d.check(true); err != nil {
				return err
			}
			if (asked.Vulnerability == "") == (rule == "") {
				return usageError(errors.New("want one of --vulnerability and --rule"))
			}
			if len(asked.Repositories) == 0 && digest == "" {
				return usageError(errors.New("want --repository, --digest or both: no waiver holds everywhere"))
			}
			until, err := d.end()
			if err != nil {
				return usageError(err)
			}
			asked.Rule, asked.Digest, asked.Reason, asked.Ticket, asked.Until = gate.Rule(rule), oci.Digest(digest), d.reason, d.ticket, until
			made, err := grantWaiver(cmd.Context(), d.server, console.Grant{Request: asked, For: d.lasts()})
			if err != nil {
				return err
			}
			if made[0].State == review.Pending {
				inv.talk("somebody else has to approve it: tidewaiter waiver approve %s", printable(made[0].ID))
			}
			return inv.print(made, func(w io.Writer) error { return printWaivers(w, made) })
		},
	}
	cmd.Flags().StringVar(&asked.Vulnerability, "vulnerability", "", "the advisory that is waived")
	cmd.Flags().StringVar(&asked.Package, "package", "", "narrows it to one package, type/name, such as deb/openssl")
	cmd.Flags().StringVar(&rule, "rule", "", "the rule that is waived, in place of an advisory")
	cmd.Flags().StringVar(&asked.Says, "says", "", "narrows the rule to the reason with this message")
	cmd.Flags().StringArrayVar(&asked.Repositories, "repository", nil, "pattern over full names it holds for; may be given several times")
	cmd.Flags().StringVar(&digest, "digest", "", "narrows it to one manifest")
	d.limited(cmd)
	inv.withOutput(cmd)
	inv.withQuiet(cmd)
	return cmd
}

// grantWaiver has one waiver granted, or asked for. There is one when it returns no error.
func grantWaiver(ctx context.Context, server string, g console.Grant) ([]review.Standing, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var list console.WaiverList
	err := askAdmin(ctx, server, http.MethodPost, "waivers", nil, g, &list)
	if err == nil && len(list.Waivers) == 0 {
		err = errors.New("the proxy does not say what it granted")
	}
	return list.Waivers, err
}

func newWaiverApprove(inv *invocation) *cobra.Command {
	var server, reason string
	cmd := &cobra.Command{
		Use:     "approve ID",
		Short:   "Have a pending exception, or all those of a release, count",
		Example: "  tidewaiter waiver approve r4f2kq7x0abcd",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return inv.changeWaiver(cmd.Context(), server, http.MethodPost, args[0], "/approve", reason)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "what there is to say")
	withServer(cmd, &server)
	inv.withOutput(cmd)
	return cmd
}

func newWaiverRevoke(inv *invocation) *cobra.Command {
	var d decision
	cmd := &cobra.Command{
		Use:     "revoke ID",
		Short:   "End an exception, or all those of a release",
		Example: "  tidewaiter waiver revoke w4f2kq7x0abcd --reason \"it is reachable after all\"",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.check(false); err != nil {
				return err
			}
			return inv.changeWaiver(cmd.Context(), d.server, http.MethodDelete, args[0], "", d.reason)
		},
	}
	d.reasoned(cmd)
	inv.withOutput(cmd)
	return cmd
}

// changeWaiver has something become of a waiver and prints how it stands then.
func (inv *invocation) changeWaiver(ctx context.Context, server, method, id, below, reason string) error {
	if id == "" || strings.ContainsAny(id, "/?#%.") {
		return usageError(errors.New("that is no id of a waiver"))
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var list console.WaiverList
	if err := askAdmin(ctx, server, method, "waivers/"+id+below, nil, console.Reasoned{Reason: reason}, &list); err != nil {
		return err
	}
	return inv.print(list.Waivers, func(w io.Writer) error { return printWaivers(w, list.Waivers) })
}
