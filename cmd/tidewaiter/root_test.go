package main

import (
	"testing"

	"github.com/spf13/cobra"
)

func TestCommands(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || c.Example == "" || c.Args == nil || c.RunE == nil {
			t.Errorf("%s: short %q, example %q; arguments checked: %t, own exit codes: %t", c.CommandPath(), c.Short, c.Example, c.Args != nil, c.RunE != nil)
		}
		for _, below := range c.Commands() {
			walk(below)
		}
	}
	walk(newRoot(&invocation{}))
}

func TestThereIsNoCommandThatIsNotOurs(t *testing.T) {
	for _, args := range [][]string{{"completion"}, {"completion", "bash"}} {
		if got := command(t, args...); got.code != exitUsage || got.stdout != "" {
			t.Errorf("%q: code %d, want %d: %s", args, got.code, exitUsage, got.stdout)
		}
	}
}
