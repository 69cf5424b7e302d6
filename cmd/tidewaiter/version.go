package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/gate"
)

// version is the release this code is, or leads to.
const version = "0.1.0-dev"

// build says what this binary is.
type build struct {
	Version string         `json:"version"`
	Commit  string         `json:"commit"`
	Go      string         `json:"go"`
	Formats map[string]int `json:"formats"`
}

func newVersion(inv *invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print version, commit, Go version and formats",
		Example: "  tidewaiter version -o json",
		Args:    exactly(0),
		RunE: func(*cobra.Command, []string) error {
			b := build{Version: version, Commit: commit(), Go: runtime.Version(), Formats: map[string]int{"inventory": gate.InventoryFormat}}
			return inv.print(b, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "tidewaiter %s\ncommit %s\n%s\ninventory format %d\n", b.Version, b.Commit, b.Go, gate.InventoryFormat)
				return err
			})
		},
	}
	inv.withOutput(cmd)
	return cmd
}

// commit returns the revision the binary was built from, if the build says.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, modified := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = " (modified)"
		}
	}
	return revision + modified
}
