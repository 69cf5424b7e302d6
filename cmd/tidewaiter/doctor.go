package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// How long checks may take, each by itself. What takes longer is told as what is wrong.
const (
	checkTimeout    = 20 * time.Second // upstreams give up after 15 s, everything else answers within one
	databaseTimeout = 2 * time.Minute  // all of it is read, two seconds for each gigabyte on a disk that is not busy
	lateGrace       = time.Second      // for a check whose time is up to say how far it came
)

func newDoctor(inv *invocation) *cobra.Command {
	canary := canaryFlags{}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check an installation, and that what is denied cannot be pulled",
		Long: `Check what an installation consists of, as serve would use it: the configuration, policies and trust files, keys and who may read them, the
certificates of the listeners, storage, Redis, every upstream with its credentials and token services, the advisory data and its age, the
sandbox, clamd, and the clock. Everything is tried, what is wrong is told with what to do about it, and nothing is changed: it may run
beside a proxy that serves. Run it as the user that serves, or it sees what that one cannot.

With --canary it pulls an image that must be denied through the proxy at --server, as nodes do, and sees to it that no byte of it comes.
That needs no configuration, so that it can run on a node; with --config everything else is checked too.

Exit codes: 0 all is well, warnings allowed, 1 something is not or could not be checked, 2 usage or configuration error, 3 the canary was
served.`,
		Example: "  tidewaiter doctor --config /etc/tidewaiter/tidewaiter.yaml\n" +
			"  tidewaiter doctor --canary registry.example/canary/denied:1 --server https://proxy.example:5000",
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks, err := inv.checks(cmd, canary)
			if err != nil {
				return err
			}
			return inv.tell(examine(cmd.Context(), checks))
		},
	}
	inv.withConfig(cmd)
	inv.withOutput(cmd)
	canary.add(cmd)
	return cmd
}

// checks returns what there is to check.
func (inv *invocation) checks(cmd *cobra.Command, flags canaryFlags) ([][]check, error) {
	if flags.reference == "" && (cmd.Flags().Changed("server") || cmd.Flags().Changed("ca-file")) {
		return nil, usageError(errors.New("--server and --ca-file are for --canary"))
	}
	var d *doctor
	var rounds [][]check
	if flags.reference == "" || cmd.Flags().Changed("config") {
		c, problems := readConfig(inv.configFile, true)
		if c == nil {
			return nil, usageError(fmt.Errorf("the configuration cannot be used:\n%w", errors.Join(problems...)))
		}
		d = &doctor{config: c, file: inv.configFile, problems: problems, now: time.Now}
		rounds = d.rounds()
	}
	if flags.reference != "" {
		canary, err := d.canary(flags)
		if err != nil {
			return nil, err
		}
		rounds = append(rounds, []check{{"canary", canaryTimeout, canary.check}})
	}
	return rounds, nil
}

// health is how something is that was checked. The zero value is the worst: what nobody looked at is not taken for sound.
type health int

const (
	failing health = iota
	doubtful
	sound
)

// String returns the word people read.
func (h health) String() string {
	switch h {
	case sound:
		return "ok"
	case doubtful:
		return "warning"
	default:
		return "failure"
	}
}

// MarshalText implements encoding.TextMarshaler.
func (h health) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// diagnosis is what one check came to.
type diagnosis struct {
	Check  string `json:"check"`
	Status health `json:"status"`
	// Found is what is so, and Do what to do about it; empty for nothing. Neither holds a secret.
	Found string `json:"found"`
	Do    string `json:"do,omitempty"`
	// code is what to exit with if it is failing; 0 stands for exitFailure.
	code int
}

// well, doubt and fail return diagnoses of whatever check they are made by.
func well(format string, args ...any) diagnosis {
	return diagnosis{Status: sound, Found: fmt.Sprintf(format, args...)}
}

func doubt(do, format string, args ...any) diagnosis {
	return diagnosis{Status: doubtful, Do: do, Found: fmt.Sprintf(format, args...)}
}

func fail(do, format string, args ...any) diagnosis {
	return diagnosis{Status: failing, Do: do, Found: fmt.Sprintf(format, args...)}
}

// misconfigured is a failure of the configuration, or of a file it names, that serve would refuse to start for.
func misconfigured(do, format string, args ...any) diagnosis {
	d := fail(do, format, args...)
	d.code = exitUsage
	return d
}

// check is something to look at. look returns when ctx ends, or little later; what it returns without a name gets that of the check.
type check struct {
	name   string
	within time.Duration
	look   func(ctx context.Context) []diagnosis
}

// examine makes all checks of a round at once, and one round after the other. Diagnoses are in the order of the checks.
func examine(ctx context.Context, rounds [][]check) []diagnosis {
	var all []diagnosis
	for _, checks := range rounds {
		found := make([][]diagnosis, len(checks))
		var looking sync.WaitGroup
		for i, c := range checks {
			looking.Go(func() { found[i] = c.made(ctx) })
		}
		looking.Wait()
		for _, f := range found {
			all = append(all, f...)
		}
	}
	return all
}

// made makes the check. One that hangs, as files of a server that is gone do, is left to itself: the process ends soon.
func (c check) made(whole context.Context) []diagnosis {
	ctx, cancel := context.WithTimeout(whole, c.within)
	defer cancel()
	done := make(chan []diagnosis, 1)
	go func() { done <- c.look(ctx) }()
	var found []diagnosis
	select {
	case found = <-done:
	case <-ctx.Done():
		select {
		case found = <-done:
		case <-time.After(lateGrace):
			found = []diagnosis{fail("see what it waits for, and check again", "this takes longer than %s", c.within)}
			if whole.Err() != nil {
				found = []diagnosis{fail("check again", "this was interrupted")}
			}
		}
	}
	for i := range found {
		if found[i].Check == "" {
			found[i].Check = c.name
		}
	}
	return found
}

// tell prints diagnoses, and returns what to exit with.
func (inv *invocation) tell(found []diagnosis) error {
	if err := inv.print(found, func(w io.Writer) error { return printDiagnoses(w, found) }); err != nil {
		return err
	}
	failures, code := 0, exitDone
	for _, d := range found {
		if d.Status == failing {
			failures++
			code = max(code, d.code, exitFailure) // the worst has the highest
		}
	}
	switch code {
	case exitDone:
		return nil
	case exitDenied:
		return &exitError{code, errors.New("the canary was served")}
	}
	return &exitError{code, fmt.Errorf("%d of %d checks failed", failures, len(found))}
}

func printDiagnoses(w io.Writer, found []diagnosis) error {
	width := 0
	for _, d := range found {
		width = max(width, len(d.Check))
	}
	var b strings.Builder
	for _, d := range found {
		writeLine(&b, "%s  %s  %s", pad(d.Status.String(), len("failure")), pad(d.Check, width), d.Found)
		if d.Do != "" {
			writeLine(&b, "%s  %s  → %s", pad("", len("failure")), pad("", width), d.Do)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// pad returns s with spaces up to a width.
func pad(s string, width int) string { return fmt.Sprintf("%-*s", width, s) }
