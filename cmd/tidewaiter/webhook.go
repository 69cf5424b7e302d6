package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/console"
)

func newWebhook(inv *invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "webhook",
		Short:   "Look after events that webhooks were told of in vain",
		Example: "  tidewaiter webhook list --server http://127.0.0.1:5001",
		Args:    onlyCommands,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newWebhookList(inv),
		newWebhookAction(inv, "retry", "Have dead letters delivered anew", "  tidewaiter webhook retry --all"),
		newWebhookAction(inv, "drop", "Forget dead letters", "  tidewaiter webhook drop 01793185200000000000-1a2b3c4d"),
	)
	return cmd
}

func newWebhookList(inv *invocation) *cobra.Command {
	server := ""
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters",
		Long: `List the events that webhooks did not take by any of the attempts made over some nine hours, oldest first.

Exit codes: 0 done, 1 could not tell, 2 usage error.`,
		Example: "  tidewaiter webhook list --server https://operator:secret@tidewaiter.example:5001 -o json",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			letters, err := askLetters(cmd.Context(), server)
			if err != nil {
				return err
			}
			return inv.print(letters.DeadLetters, func(w io.Writer) error { return printLetters(w, letters.DeadLetters) })
		},
	}
	withServer(cmd, &server)
	inv.withOutput(cmd)
	return cmd
}

func newWebhookAction(inv *invocation, action, short, example string) *cobra.Command {
	server, all := "", false
	cmd := &cobra.Command{
		Use:     action + " [NAME...]",
		Short:   short,
		Long:    short + ", by the names \"webhook list\" shows.\n\nExit codes: 0 done, 1 could not, or not all of them, 2 usage error.",
		Example: example,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			if all == (len(names) > 0) {
				return usageError(errors.New("either names, or --all"))
			}
			if all {
				letters, err := askLetters(cmd.Context(), server)
				if err != nil {
					return err
				}
				for _, l := range letters.DeadLetters {
					names = append(names, l.Name)
				}
			}
			done := console.LetterActions{Done: []string{}, Missing: []string{}}
			if len(names) > 0 {
				ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
				defer cancel()
				if err := askAdmin(ctx, server, http.MethodPost, lettersPath, nil, console.LetterAction{Action: action, Names: names}, &done); err != nil {
					return err
				}
			}
			if err := inv.print(done, func(w io.Writer) error { return printDone(w, done) }); err != nil {
				return err
			}
			if len(done.Missing) > 0 {
				return fmt.Errorf("%d have gone, or their webhook is not configured any more", len(done.Missing))
			}
			return nil
		},
	}
	withServer(cmd, &server)
	cmd.Flags().BoolVar(&all, "all", false, "all there are")
	inv.withOutput(cmd)
	return cmd
}

const lettersPath = "webhooks/dead-letters"

func askLetters(ctx context.Context, server string) (letters console.DeadLetters, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return letters, askAdmin(ctx, server, http.MethodGet, lettersPath, nil, nil, &letters)
}

func printLetters(w io.Writer, letters []console.DeadLetter) error {
	if len(letters) == 0 {
		_, err := fmt.Fprintln(w, "no dead letters")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	writeRow(t, "NAME", "WEBHOOK", "TYPE", "SUBJECT", "SINCE", "ATTEMPTS", "PROBLEM")
	for _, l := range letters {
		writeRow(t, l.Name, l.Webhook, l.Type, l.Subject, l.FailedAt.UTC().Format(time.RFC3339), l.Attempts, l.Problem)
	}
	return t.Flush()
}

func printDone(w io.Writer, done console.LetterActions) error {
	var b strings.Builder
	for _, name := range done.Done {
		writeLine(&b, "%s: done", name)
	}
	for _, name := range done.Missing {
		writeLine(&b, "%s: there is none", name)
	}
	if b.Len() == 0 {
		writeLine(&b, "no dead letters")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
