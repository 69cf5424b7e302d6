package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/policy"
	"github.com/tidewaiter/tidewaiter/simulation"
)

// openSimulator makes what tries other policies.
func (in *instance) openSimulator() {
	in.simulator = simulation.New(simulation.Options{
		Gate: in.gate, Past: judged{in.ledger}, Holdings: in.quarantine, Pulls: in.trail, Policies: in.waivers, Now: time.Now,
	})
}

// Listing implements gate.Past: of what is hosted here the indexes count that are there now.
func (r records) Listing(ctx context.Context, c gate.Candidate) ([]gate.Candidate, error) {
	if c.Repository.Upstream == "" {
		return r.hosted.Parents(ctx, c)
	}
	return r.Ledger.Listing(ctx, c)
}

// judged is the ledger as the simulator asks it.
type judged struct{ *ledger.Ledger }

// Judged implements simulation.Past.
func (j judged) Judged(ctx context.Context, repo oci.Repository) ([]gate.Candidate, error) {
	standings, err := j.Standings(ctx, repo)
	all := make([]gate.Candidate, len(standings))
	for i, s := range standings {
		all[i] = s.Candidate
	}
	return all, err
}

// draft reads policy files as they would be read were they in force here, beside the waivers that were granted.
func (in *instance) draft(files []console.DraftFile) (*gate.PolicySet, error) {
	var read []policy.File
	for _, f := range files {
		read = append(read, policy.File{Name: f.Name, Data: []byte(f.Content)})
	}
	set, err := policy.ParseAll(read, time.Now())
	if err != nil {
		return nil, err
	}
	roots := in.policies.Roots()
	if err := errors.Join(policy.CheckAuthorities(set, roots), in.config.usable(set, roots)); err != nil {
		return nil, err
	}
	return in.waivers.With(set), nil
}

// shownPolicy is what the console shows of policies, and tries others with.
func (in *instance) shownPolicy() *console.Policy {
	return &console.Policy{
		InForce: in.waivers, Files: in.config.PolicyFiles, Roots: func() string { return in.policies.Roots().Revision },
		Parse: in.draft, Simulator: in.simulator, Rights: in.access, Now: time.Now,
	}
}

// simulateCommand is what was asked of the command.
type simulateCommand struct {
	server     string
	since      time.Duration
	repository string
	fetch      bool
}

func newPolicySimulate(inv *invocation) *cobra.Command {
	var s simulateCommand
	cmd := &cobra.Command{
		Use:   "simulate FILE...",
		Short: "Tell which images would be allowed or denied by another policy, and why",
		Long: `Have everything that is held decided upon by policy files that are not in force, and say which decisions would change and why. The files
stand for all policy files in force, waivers included. Nothing is changed: no verdict is made, no image released or withdrawn.

It goes by what is known of each image. What the draft asks for and nobody has looked for yet is told as unknown; --fetch has it looked
for, which may fetch and read layers. With --config the storage of that configuration is asked in place of a running proxy.

Exit codes: 0 nothing that is allowed would be denied, 1 could not tell (also: of some images it is not known), 2 usage error or wrong
policy, 3 something that is allowed now would be denied.`,
		Example: "  tidewaiter policy simulate draft.yaml --since 168h",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.MinimumNArgs(1)(cmd, args); err != nil {
				return usageError(err)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := s.read(args)
			if err != nil {
				return err
			}
			page, err := s.run(cmd.Context(), inv, files)
			if err != nil {
				return err
			}
			if err := inv.print(page, func(w io.Writer) error { return printSimulation(w, page) }); err != nil {
				return err
			}
			switch {
			case page.Denied > 0:
				return errDenied
			case page.Unknown > 0:
				return fmt.Errorf("what would become of %d images is not known; --fetch has it looked for", page.Unknown)
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&s.since, "since", 0, "only images that were pulled in this time, such as 168h")
	cmd.Flags().StringVar(&s.repository, "repository", "", "only images of repositories that match this pattern over full names")
	cmd.Flags().BoolVar(&s.fetch, "fetch", false, "have what is not known looked for: signatures, layers")
	withServer(cmd, &s.server)
	inv.withConfig(cmd)
	inv.withOutput(cmd)
	return cmd
}

// read reads policy files and refuses what is wrong with them before anybody is asked.
func (s simulateCommand) read(names []string) ([]console.DraftFile, error) {
	if s.since < 0 {
		return nil, usageError(errors.New("--since must not be negative"))
	}
	if s.repository != "" {
		if _, err := oci.ParseFullPattern(s.repository); err != nil {
			return nil, usageError(err)
		}
	}
	var files []console.DraftFile
	var parsed []policy.File
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return nil, usageError(err)
		}
		raw, err := io.ReadAll(io.LimitReader(f, policy.MaxFileBytes+1))
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		files = append(files, console.DraftFile{Name: name, Content: string(raw)})
		parsed = append(parsed, policy.File{Name: name, Data: raw})
	}
	if _, err := policy.ParseAll(parsed, time.Now()); err != nil {
		return nil, usageError(err)
	}
	return files, nil
}

// run goes through all pages and returns them as one.
func (s simulateCommand) run(ctx context.Context, inv *invocation, files []console.DraftFile) (all simulation.Page, err error) {
	if inv.configFile == "" {
		return joined(func(after string) (page simulation.Page, err error) {
			ctx, cancel := context.WithTimeout(ctx, decideTimeout)
			defer cancel()
			err = askAdmin(ctx, s.server, http.MethodPost, "policy/simulate", s.query(after), console.Draft{Files: files}, &page)
			return page, err
		})
	}
	inv.quiet = true // nothing is fetched that a bar would be drawn for, but for --fetch
	err = inv.withInstance(ctx, func(ctx context.Context, in *instance) error {
		set, err := in.draft(files)
		if err != nil {
			return usageError(err)
		}
		asked := simulation.Request{Draft: set, Fetch: s.fetch}
		if s.since > 0 {
			asked.Since = time.Now().Add(-s.since)
		}
		if s.repository != "" {
			pattern, err := oci.ParseFullPattern(s.repository)
			if err != nil {
				return usageError(err)
			}
			asked.Wanted = func(repo oci.Repository) bool { return pattern.Match(repo.String()) }
		}
		all, err = joined(func(after string) (simulation.Page, error) {
			asked.After = after
			return in.simulator.Simulate(ctx, asked)
		})
		return err
	})
	return all, err
}

func (s simulateCommand) query(after string) url.Values {
	query := url.Values{}
	for key, value := range map[string]string{"after": after, "repository": s.repository} {
		if value != "" {
			query.Set(key, value)
		}
	}
	if s.since > 0 {
		query.Set("since", s.since.String())
	}
	if s.fetch {
		query.Set("fetch", "true")
	}
	return query
}

// joined asks for pages until there is no other, and returns them as one.
func joined(ask func(after string) (simulation.Page, error)) (simulation.Page, error) {
	all := simulation.Page{Changes: []simulation.Change{}}
	for after := ""; ; {
		page, err := ask(after)
		if err != nil {
			return simulation.Page{}, err
		}
		all.Images += page.Images
		all.Denied += page.Denied
		all.Admitted += page.Admitted
		all.Reworded += page.Reworded
		all.Unknown += page.Unknown
		all.Changes = append(all.Changes, page.Changes...)
		all.Revision, all.WaiverRevision = page.Revision, page.WaiverRevision
		if page.Next == "" {
			return all, nil
		}
		if page.Next <= after && page.Images == 0 {
			return simulation.Page{}, errors.New("the simulation does not go on")
		}
		after = page.Next
	}
}

// severest is the order in which changes are told.
var severest = []simulation.Kind{simulation.Denied, simulation.Unknown, simulation.Admitted, simulation.Reworded}

// printSimulation writes what would change, the worst first.
func printSimulation(w io.Writer, page simulation.Page) error {
	changes := slices.Clone(page.Changes)
	slices.SortStableFunc(changes, func(a, b simulation.Change) int {
		return cmp.Compare(slices.Index(severest, a.Kind), slices.Index(severest, b.Kind))
	})
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(changes) > 0 {
		writeRow(table, "IMAGE", "CHANGE", "WHY")
	}
	for _, c := range changes {
		after := "unknown"
		if c.After != nil {
			after = shownSide(*c.After)
		}
		writeRow(table, c.Repository+"@"+c.Digest.String(), shownSide(c.Before)+" → "+after, whyChanged(c))
	}
	writeLine(table, "%s", fmt.Sprintf("%d images: %d would be denied, %d would be allowed, %d stay for other reasons, %d are not known",
		page.Images, page.Denied, page.Admitted, page.Reworded, page.Unknown))
	return table.Flush()
}

func shownSide(s simulation.Side) string {
	if s.Warned {
		return "allow with warnings"
	}
	return s.Decision.String()
}

// whyChanged says in one line why an image is concerned: the reasons of the side that has something against it.
func whyChanged(c simulation.Change) string {
	if c.After == nil {
		return c.Unknown
	}
	side, of := *c.After, ""
	if len(side.Reasons) == 0 {
		side, of = c.Before, "no longer: "
	}
	if len(side.Reasons) == 0 {
		return "policy " + cmp.Or(c.Before.Policy, "none") + " → " + cmp.Or(c.After.Policy, "none")
	}
	first := side.Reasons[0]
	why := of + strings.TrimPrefix(first.Place+": ", ": ") + first.Message
	if more := len(side.Reasons) - 1; more > 0 {
		why += fmt.Sprintf(" (%d more)", more)
	}
	return why
}
