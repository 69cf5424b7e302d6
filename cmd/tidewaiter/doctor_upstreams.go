package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/tidewaiter/tidewaiter/upstream"
)

// clockTolerance is how far other clocks may be from ours. What goes by clocks counts for minutes: tokens, of ours and of upstreams, and
// what replicas believe of each other. Upstreams tell theirs to the second, by servers that are not always right themselves.
const clockTolerance = 30 * time.Second

// reading is what somebody else's clock showed, and ours then.
type reading struct {
	whose        string
	theirs, ours time.Time
}

// read notes somebody else's clock.
func (d *doctor) read(r reading) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clocks = append(d.clocks, r)
}

// checkClock compares the clocks that the round before has read.
func (d *doctor) checkClock(context.Context) []diagnosis {
	const do = "run NTP here, or see to the one that is wrong: verdicts, waivers and ages go by this machine's clock"
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.clocks) == 0 {
		return []diagnosis{doubt("see to the upstreams and Redis, and check again", "nobody told the time to compare with")}
	}
	var off []diagnosis
	for _, c := range d.clocks {
		if ahead := c.ours.Sub(c.theirs).Round(time.Second); ahead.Abs() > clockTolerance {
			word := "ahead of"
			if ahead < 0 {
				word = "behind"
			}
			off = append(off, doubt(do, "this clock is %s %s that of %s", ahead.Abs(), word, c.whose))
		}
	}
	if len(off) > 0 {
		return off
	}
	return []diagnosis{well("within %s of %d others", clockTolerance, len(d.clocks))}
}

// openUpstreams returns the upstreams as the configuration has them.
func (d *doctor) openUpstreams() (*upstream.Registries, error) {
	dialled, err := d.config.dialled()
	if err != nil {
		return nil, err
	}
	return upstream.New(dialled, d.upstreamOptions())
}

func (d *doctor) upstreamOptions() upstream.Options {
	return upstream.Options{UserAgent: "tidewaiter/" + version, Log: slog.New(slog.DiscardHandler), Now: d.now}
}

// checkUpstreams returns a check for every upstream, and for where advisories are fetched from, if that is another.
func (d *doctor) checkUpstreams() []check {
	registries, err := d.openUpstreams()
	if err != nil {
		return []check{{"upstreams", checkTimeout, func(context.Context) []diagnosis {
			return []diagnosis{misconfigured(correctIt, "%s", inOneLine(err))}
		}}}
	}
	var checks []check
	source := d.advisorySource()
	for _, host := range registries.Hosts() {
		if host == source {
			source = ""
		}
		checks = append(checks, check{"upstream " + host, checkTimeout, func(ctx context.Context) []diagnosis {
			defer registries.Close() // idle connections; each has its own
			return d.ping(ctx, registries, host)
		}})
	}
	if source != "" {
		checks = append(checks, check{"advisories.source " + source, checkTimeout, d.pingSource})
	}
	return checks
}

// advisorySource returns the host advisories are fetched from; empty for none.
func (d *doctor) advisorySource() string {
	if d.config.Advisories.Source == "" {
		return ""
	}
	registries, source, err := d.config.advisorySource(d.upstreamOptions())
	if err != nil {
		return "" // what is wrong with it is wrong with the configuration
	}
	registries.Close()
	return source.Repository.Upstream
}

func (d *doctor) pingSource(ctx context.Context) []diagnosis {
	registries, source, err := d.config.advisorySource(d.upstreamOptions())
	if err != nil {
		return []diagnosis{misconfigured(correctIt, "%s", inOneLine(err))}
	}
	defer registries.Close()
	return d.ping(ctx, registries, source.Repository.Upstream)
}

// ping asks every URL of an upstream whether it lets us in.
func (d *doctor) ping(ctx context.Context, registries *upstream.Registries, host string) []diagnosis {
	pongs, err := registries.Ping(ctx, host)
	if err != nil {
		return []diagnosis{fail("", "%v", err)}
	}
	var found []diagnosis
	for _, p := range pongs {
		if !p.Date.IsZero() {
			d.read(reading{p.URL, p.Date, p.At})
		}
		found = append(found, diagnosePong(p))
	}
	return found
}

// remedies are what to do about the faults of upstreams.
var remedies = map[upstream.Fault]string{
	upstream.FaultName:         "correct its url, or see that this machine's resolver knows the name",
	upstream.FaultPrivate:      "if it is inside your network, set unsafe_private_addresses for it",
	upstream.FaultConnection:   "see that it runs, and that this machine may connect to it",
	upstream.FaultTLS:          "set ca_file to the CA its certificate is from, or correct its url",
	upstream.FaultRealm:        "if the credentials may go to that token service, add it to realms",
	upstream.FaultCredentials:  "see that what credentials names tells a user name and a password",
	upstream.FaultUnauthorized: "give it credentials that it takes",
	upstream.FaultLimited:      "wait, or give it credentials: known clients often have limits of their own",
	upstream.FaultSlow:         "see what is between here and it",
	upstream.FaultAnswer:       "correct its url: the API of a registry must answer there, at /v2/",
}

// diagnosePong says what a URL's answer means. The failures of mirrors do not count, nor does that a registry lets nobody in who has no
// credentials where it may give out single repositories all the same.
func diagnosePong(p upstream.Pong) diagnosis {
	what := p.URL
	if p.Mirror {
		what = "mirror " + p.URL
	}
	switch {
	case p.Fault == "" && p.Configured && !p.Shown:
		return well("%s answers, without asking for the credentials there are", what)
	case p.Fault == "" && p.Configured:
		return well("%s takes the credentials", what)
	case p.Fault == "":
		return well("%s answers", what)
	}
	found := fmt.Sprintf("%s: %s: %s", what, p.Fault, inOneLine(p.Err))
	if p.Mirror || p.Fault == upstream.FaultLimited || p.Fault == upstream.FaultUnauthorized && !p.Configured && p.Shown {
		return doubt(remedies[p.Fault], "%s", found)
	}
	return fail(remedies[p.Fault], "%s", found)
}
