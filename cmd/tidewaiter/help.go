package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// exitCodes is what help says of them where a command says no more itself.
const exitCodes = "Exit codes: 0 done, 1 could not, 2 usage or configuration error."

// groupExitCodes is what help says of them where there are several commands.
const groupExitCodes = "Exit codes: 0 done or allowed, 1 could not tell, 2 usage or configuration error, 3 denied by policy. Each command says more."

// sayExitCodes has the help of cmd, and of all below it, say what the process exits with.
func sayExitCodes(cmd *cobra.Command) {
	below := cmd.Commands()
	for _, c := range below {
		sayExitCodes(c)
	}
	if strings.Contains(cmd.Long, "Exit codes:") {
		return
	}
	if cmd.Long == "" {
		cmd.Long = cmd.Short + "."
	}
	codes := exitCodes
	if len(below) > 0 {
		codes = groupExitCodes
	}
	cmd.Long += "\n\n" + codes
}
