package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// Exit codes, the same for every command.
const (
	exitDone    = 0 // done, or allowed
	exitFailure = 1 // could not tell
	exitUsage   = 2 // wrong usage or configuration
	exitDenied  = 3 // denied by policy
)

// exitError is an error that says which code to exit with. Every other error is a failure.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *exitError) Unwrap() error { return e.err }

// errDenied ends a command whose image is denied. What there is to say has been printed by then.
var errDenied = &exitError{exitDenied, errors.New("denied by policy")}

func usageError(err error) error { return &exitError{exitUsage, err} }

// invocation is what a command works with besides its own flags.
type invocation struct {
	stdout, stderr io.Writer
	configFile     string
	output         string // text or json
	quiet          bool
}

// run carries out one command line and returns the exit code. stdout is data, stderr is talk.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot(&invocation{stdout: stdout, stderr: stderr})
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	code := exitFailure
	if exit, ok := errors.AsType[*exitError](err); ok {
		code = exit.code
	}
	if !errors.Is(err, errDenied) {
		_, _ = fmt.Fprintln(stderr, "tidewaiter: "+printableLines(err.Error())) // nobody to tell when even stderr is gone
	}
	return code
}

func newRoot(inv *invocation) *cobra.Command {
	root := &cobra.Command{
		Use:           "tidewaiter",
		Short:         "A registry proxy that judges every image before it serves it",
		SilenceUsage:  true,
		SilenceErrors: true,
		Example:       "  tidewaiter demo\n  tidewaiter serve --config /etc/tidewaiter/tidewaiter.yaml",
		Args:          onlyCommands,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true // it has exit codes of its own
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError(err) })
	root.AddCommand(
		newServe(inv), newDemo(inv), newCheck(inv), newVerdict(inv), newInventory(inv), newPolicy(inv), newAdvisories(inv), newClients(inv),
		newRobot(inv), newTokenKey(inv), newQuarantine(inv), newWaiver(inv), newAudit(inv), newWebhook(inv), newVersion(inv), newEligible(inv), newRecalls(inv), newDoctor(inv),
	)
	sayExitCodes(root)
	return root
}

// onlyCommands refuses an argument to a command that has but commands below it: it was meant to be one of those.
func onlyCommands(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError(fmt.Errorf("unknown command %q; %q lists those there are", args[0], cmd.CommandPath()+" --help"))
	}
	return nil
}

// exactly is cobra.ExactArgs with the exit code of wrong usage.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := cobra.ExactArgs(n)(cmd, args); err != nil {
			return usageError(err)
		}
		return nil
	}
}

func (inv *invocation) withConfig(cmd *cobra.Command) {
	cmd.Flags().StringVar(&inv.configFile, "config", "", "configuration file; none means the defaults")
}

func (inv *invocation) withOutput(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&inv.output, "output", "o", "text", "what to print: text or json")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if inv.output != "text" && inv.output != "json" {
			return usageError(fmt.Errorf("output %q is neither text nor json", inv.output))
		}
		return nil
	}
}

func (inv *invocation) withQuiet(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&inv.quiet, "quiet", "q", false, "say nothing on stderr but errors")
}

// print writes v as JSON when that was asked for, else what text writes.
func (inv *invocation) print(v any, text func(io.Writer) error) error {
	if inv.output != "json" {
		return text(inv.stdout)
	}
	encoded, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = io.WriteString(inv.stdout, escapedJSON(encoded)+"\n")
	return err
}

// talk writes a line for a person.
func (inv *invocation) talk(format string, args ...any) {
	if !inv.quiet {
		_, _ = fmt.Fprintf(inv.stderr, format+"\n", args...) // nobody to tell when even stderr is gone
	}
}
