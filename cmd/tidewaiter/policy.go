package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/policy"
)

func newPolicy(inv *invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "policy",
		Short:   "Work with policies",
		Example: "  tidewaiter policy check policy.yaml",
		Args:    onlyCommands,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPolicyCheck(inv), newPolicySimulate(inv))
	return cmd
}

func newPolicyCheck(inv *invocation) *cobra.Command {
	var trust []string
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Parse and compile policy files; say all that is wrong, with lines",
		Long: `Parse and compile policy files as the proxy would, and say everything that is wrong with them at once, with file and line. With --trust
the authorities they name are checked to exist.`,
		Example: "  tidewaiter policy check policy.yaml --trust trust.yaml",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.MinimumNArgs(1)(cmd, args); err != nil {
				return usageError(err)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			set, err := policy.Load(args, time.Now())
			if err != nil {
				return usageError(err)
			}
			if len(trust) > 0 {
				roots, err := policy.LoadTrust(trust)
				if err != nil {
					return usageError(err)
				}
				if err := policy.CheckAuthorities(set, roots); err != nil {
					return usageError(err)
				}
			}
			facts := map[string]any{
				"policies": len(set.Policies), "waivers": len(set.Waivers), "revision": set.Revision, "waiver_revision": set.WaiverRevision,
			}
			return inv.print(facts, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%d policies, %d waivers, revision %s\n", len(set.Policies), len(set.Waivers), set.Revision)
				return err
			})
		},
	}
	cmd.Flags().StringSliceVar(&trust, "trust", nil, "trust files whose authorities the policies may name")
	inv.withOutput(cmd)
	return cmd
}
