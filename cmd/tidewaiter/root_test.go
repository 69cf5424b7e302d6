package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

func TestCommands(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || c.Example == "" || c.Args == nil || c.RunE == nil {
			t.Errorf("%s: short %q, example %q; arguments checked: %t, own exit codes: %t", c.CommandPath(), c.Short, c.Example, c.Args != nil, c.RunE != nil)
		}
		if n := strings.Count(c.Long, "Exit codes:"); n != 1 {
			t.Errorf("%s: exit codes are told of %d times", c.CommandPath(), n)
		}
		asked := defaultServer
		if c.Name() == "doctor" { // which pulls
			asked = defaultRegistry
		}
		if server := c.Flags().Lookup("server"); server != nil && (server.DefValue != asked || !strings.Contains(server.Usage, "credentials")) {
			t.Errorf("%s: --server is %q, %q", c.CommandPath(), server.Usage, server.DefValue)
		}
		for _, below := range c.Commands() {
			walk(below)
		}
	}
	walk(newRoot(&invocation{}))
}

// TestReadmeHasEveryCommand compares the table of commands with those there are.
func TestReadmeHasEveryCommand(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Commands\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var told []string
	for row := range strings.Lines(strings.ReplaceAll(section, `\|`, "|")) {
		if name, ok := strings.CutPrefix(row, "| `"); ok {
			name, _, _ = strings.Cut(name, "`")
			words := strings.Fields(name)
			for below := range strings.SplitSeq(words[min(1, len(words)-1)], "|") {
				if below == words[0] || strings.ToLower(below) != below || strings.HasPrefix(below, "-") {
					told = append(told, words[0])
					continue
				}
				told = append(told, words[0]+" "+below)
			}
		}
	}
	var there []string
	for _, c := range newRoot(&invocation{}).Commands() {
		if len(c.Commands()) == 0 {
			there = append(there, c.Name())
		}
		for _, below := range c.Commands() {
			there = append(there, c.Name()+" "+below.Name())
		}
	}
	slices.Sort(told)
	slices.Sort(there)
	if diff := cmp.Diff(told, there); diff != "" {
		t.Errorf("-README +there:\n%s", diff)
	}
}

func TestThereIsNoCommandThatIsNotOurs(t *testing.T) {
	for _, args := range [][]string{{"completion"}, {"completion", "bash"}} {
		if got := command(t, args...); got.code != exitUsage || got.stdout != "" {
			t.Errorf("%q: code %d, want %d: %s", args, got.code, exitUsage, got.stdout)
		}
	}
}
