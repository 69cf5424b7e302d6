package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/hosted"
	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/proxy"
	"github.com/tidewaiter/tidewaiter/quarantine"
	"github.com/tidewaiter/tidewaiter/upstream"
)

// tagRules are the values of hosted[].tags.
var tagRules = map[string]hosted.TagRule{
	"": hosted.Mutable, "mutable": hosted.Mutable, "immutable": hosted.Immutable, "immutable-semver": hosted.ImmutableSemver,
}

// hostedRules returns the rules of hosted, and what is wrong with them.
func (c *config) hostedRules() (rules []hosted.Rule, problems []error) {
	for i, h := range c.Hosted {
		note := func(format string, args ...any) {
			problems = append(problems, fmt.Errorf("hosted[%d]: "+format, append([]any{i}, args...)...))
		}
		rule := hosted.Rule{ForwardTo: h.ForwardTo, Pending: hosted.DefaultPending}
		if len(h.Repositories) == 0 {
			note("repositories names none")
		}
		for _, s := range h.Repositories {
			p, err := oci.ParsePattern(s)
			if host, _ := oci.SplitUpstream(s); err == nil && host != "" {
				err = fmt.Errorf("%q begins with a host, which is that of an upstream", s)
			}
			if err != nil {
				note("%w", err)
			}
			rule.Repositories = append(rule.Repositories, p)
		}
		var ok bool
		if rule.Tags, ok = tagRules[h.Tags]; !ok {
			note("tags: %q is not mutable, immutable or immutable-semver", h.Tags)
		}
		if h.Pending != nil {
			if rule.Pending = *h.Pending; rule.Pending <= 0 {
				note("pending must be positive")
			}
		}
		if h.ForwardTo != "" {
			if err := c.checkForward(h.ForwardTo); err != nil {
				note("forward_to: %w", err)
			}
		}
		rules = append(rules, rule)
	}
	return rules, problems
}

// checkForward returns what is wrong with where something is forwarded to: it is an upstream of ours, and perhaps a path there.
func (c *config) checkForward(to string) error {
	host, path, _ := strings.Cut(to, "/")
	for _, u := range c.upstreams() {
		if u.Host == oci.UnescapePort(host) {
			if path != "" && !oci.ValidPath(path) {
				return fmt.Errorf("%q is not the beginning of a repository's name", path)
			}
			return nil
		}
	}
	return fmt.Errorf("%q is not one of the upstreams", host)
}

// openHosted opens the repositories that are pushed to here. What was pushed is judged by in.gate, which there may not be yet.
func (in *instance) openHosted() error {
	rules, problems := in.config.hostedRules()
	if len(problems) > 0 {
		return usageError(errors.Join(problems...))
	}
	var err error
	in.hosted, err = hosted.New(hosted.Options{
		Rules: rules, Journal: in.journal(), Bytes: in.quarantine, Now: time.Now, Log: in.log,
		Judge: func(c gate.Candidate) {
			in.gate.Start(c)
			in.forwarder.Wake() // what was attached to an image that is admitted already goes after it
		},
		Served: func(gate.Candidate) { in.forwarder.Wake() },
	})
	if err != nil {
		return err
	}
	in.closers = append(in.closers, func() error { in.hosted.Close(); return nil })
	return nil
}

// proxied returns the hosted repositories as the proxy knows them; nil when there can be none.
func (in *instance) proxied() *proxy.Hosted {
	if len(in.config.Hosted) == 0 {
		return nil
	}
	return &proxy.Hosted{
		Hosts: in.hosted.Hosts, Contents: in.hosted, Catalog: in.hosted, Changes: in.hosted, Pushed: in.quarantine.Pushed(),
		Uploads: in.uploads, Sessions: in.uploads, Blobs: hostedBlobs{in.quarantine, in.hosted}, Lists: in.access.Lists,
	}
}

// hostedBlobs tells hosted repositories of the blobs that are taken out of them.
type hostedBlobs struct {
	*quarantine.Quarantine
	hosted *hosted.Repositories
}

// DeleteBlob implements proxy.HostedBlobs.
func (b hostedBlobs) DeleteBlob(ctx context.Context, repo oci.Repository, d oci.Digest) error {
	if err := b.Quarantine.DeleteBlob(ctx, repo, d); err != nil {
		return err
	}
	return b.hosted.BlobDeleted(ctx, repo, d)
}

// contents is what is stored beside images, wherever they are: hosted here, pending things too, or at an upstream. It is what signatures
// are looked for in, and what clients are told refers to an image.
type contents struct {
	upstreams *upstream.Registries
	hosted    *hosted.Repositories
	pushed    quarantine.Pushed
}

func (in *instance) contents() contents {
	return contents{upstreams: in.upstreams, hosted: in.hosted, pushed: in.quarantine.Pushed()}
}

// Manifest implements signing.Registry.
func (c contents) Manifest(ctx context.Context, repo oci.Repository, reference string) (oci.Content, error) {
	if repo.Upstream != "" {
		return c.upstreams.Manifest(ctx, repo, reference)
	}
	d := oci.Digest(reference)
	if !strings.Contains(reference, ":") {
		tag, err := c.hosted.Resolve(ctx, repo, reference)
		if err != nil {
			return oci.Content{}, err
		}
		d = tag.Pushed.Digest
	}
	return c.pushed.Manifest(ctx, gate.Candidate{Repository: repo, Digest: d})
}

// Blob implements signing.Registry.
func (c contents) Blob(ctx context.Context, repo oci.Repository, desc oci.Descriptor) (io.ReadCloser, error) {
	if repo.Upstream != "" {
		return c.upstreams.Blob(ctx, repo, desc)
	}
	r, _, err := c.pushed.Blob(ctx, repo, desc.Digest)
	return r, err
}

// Referrers implements signing.Registry and proxy.Referrers.
func (c contents) Referrers(ctx context.Context, repo oci.Repository, subject oci.Digest) ([]oci.Descriptor, error) {
	if repo.Upstream != "" {
		return c.upstreams.Referrers(ctx, repo, subject)
	}
	return c.hosted.Referrers(ctx, repo, subject)
}

// Resolve implements console.Resolver: a tag of a hosted repository is what was pushed under it last.
func (c contents) Resolve(ctx context.Context, repo oci.Repository, reference string) (oci.Descriptor, bool, error) {
	if repo.Upstream != "" {
		found, err := c.upstreams.Resolve(ctx, repo, reference)
		return found.Descriptor, found.Stale, err
	}
	tag, err := c.hosted.Resolve(ctx, repo, reference)
	return tag.Pushed, false, err
}

// releases tells hosted repositories what became of what was pushed to them.
type releases struct {
	*quarantine.Quarantine
	hosted *hosted.Repositories
}

// Release implements gate.Releases.
func (r releases) Release(ctx context.Context, v gate.Verdict) error {
	if err := r.Quarantine.Release(ctx, v); err != nil || v.Repository.Upstream != "" {
		return err
	}
	return r.hosted.Admitted(ctx, v)
}

// Withdraw implements gate.Releases. Denied bytes that were pushed stay for as long as their signature may yet arrive.
func (r releases) Withdraw(ctx context.Context, c gate.Candidate, drop bool) error {
	if c.Repository.Upstream != "" {
		return r.Quarantine.Withdraw(ctx, c, drop)
	}
	if err := r.Quarantine.Withdraw(ctx, c, false); err != nil || !drop {
		return err
	}
	_, err := r.hosted.Expire(ctx, c)
	return err
}

// records answers from the hosted repositories which indexes list a manifest: the ones that were pushed, whether judged or not.
type records struct {
	*ledger.Ledger
	hosted *hosted.Repositories
}

// Parents implements gate.Records.
func (r records) Parents(ctx context.Context, c gate.Candidate) ([]gate.Candidate, error) {
	if c.Repository.Upstream == "" {
		return r.hosted.Parents(ctx, c)
	}
	return r.Ledger.Parents(ctx, c)
}

// attachments knows what is attached to what is hosted here, and of upstreams nothing that would last.
type attachments struct{ hosted *hosted.Repositories }

// Attachments implements gate.Attachments.
func (a attachments) Attachments(ctx context.Context, c gate.Candidate) (string, error) {
	if c.Repository.Upstream != "" {
		return "", nil
	}
	return a.hosted.Attachments(ctx, c)
}

// ownNames returns the names by which signers may know this proxy: those it is configured with, and where it listens.
func ownNames(c *config) []string {
	names := append([]string{c.Listen.Registry}, c.Listen.Names...)
	if host, port, err := net.SplitHostPort(c.Listen.Registry); err == nil && isLoopback(c.Listen.Registry) {
		for _, same := range []string{"localhost", "127.0.0.1"} {
			if same != host {
				names = append(names, net.JoinHostPort(same, port))
			}
		}
	}
	return names
}

// How often what was pushed is looked after, and after how long without a byte an upload is abandoned. Clients that resume do so within
// minutes.
const (
	tendEvery      = time.Hour
	abandonedAfter = 24 * time.Hour
)

// tend looks after what was pushed, now and every so often: it judges what nobody has asked for and was left pending, perhaps by a
// process that was killed, and removes uploads nobody goes on with.
func (in *instance) tend(ctx context.Context) {
	ticker := time.NewTicker(tendEvery)
	defer ticker.Stop()
	for {
		if in.fleet.Turn(ctx, "tend", tendEvery) { // one replica does it for all
			in.tendOnce(ctx)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (in *instance) tendOnce(ctx context.Context) {
	in.judgePending(ctx)
	n, err := in.uploads.Purge(ctx, abandonedAfter)
	if err != nil && ctx.Err() == nil {
		in.log.WarnContext(ctx, "removing abandoned uploads", "err", err)
	}
	if n > 0 {
		in.log.InfoContext(ctx, "abandoned uploads removed", "uploads", n)
	}
}

// judgePending judges what is pending, one after the other: clients come first.
func (in *instance) judgePending(ctx context.Context) {
	pending, err := in.hosted.Unserved(ctx)
	if err != nil && ctx.Err() == nil {
		in.log.WarnContext(ctx, "looking for what is pending", "err", err)
	}
	for _, c := range pending {
		if _, err := in.gate.Judge(ctx, c); err != nil {
			if ctx.Err() != nil {
				return
			}
			in.log.DebugContext(ctx, "judging what is pending", "candidate", c.String(), "err", err)
		}
	}
}
