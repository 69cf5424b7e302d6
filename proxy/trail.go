package proxy

import (
	"context"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/trail"
)

// Trail is told what tags stand for and who gets what. Implementations are safe for concurrent use.
type Trail interface {
	// Resolved notes that tag of repo stands for d, as by found out or pushed. It may wait for a write, and cannot fail: nothing depends
	// on it being on record.
	Resolved(ctx context.Context, repo oci.Repository, tag string, d oci.Digest, by trail.Client)
	// Pulled notes that by was sent the manifest of c. It waits for nothing.
	Pulled(c gate.Candidate, by trail.Client)
}

// LastGood knows what tags stood for before, where that may be served in place of what they stand for now. Implementations are safe for
// concurrent use.
type LastGood interface {
	// Serves reports whether anything may be served in place of what the tags of repo stand for. It does not wait for anything.
	Serves(repo oci.Repository) bool
	// Earlier returns what may be served in place of now, which tag of repo stands for, if it is allowed: the newest first.
	Earlier(ctx context.Context, repo oci.Repository, tag string, now oci.Digest) ([]oci.Digest, error)
}

// client returns who sends the request, for the trail.
func (x *exchange) client(r *http.Request) trail.Client {
	return trail.Client{Name: x.caller.Name, Address: x.caller.Address, Agent: r.UserAgent()}
}

// resolved notes what a tag stands for. Tags under which signatures are kept stand for whatever was signed last, which tells nobody anything.
func (p *Proxy) resolved(ctx context.Context, x *exchange, tag string, d oci.Digest) {
	if _, isEvidence := oci.ParseEvidenceTag(tag); p.o.Trail != nil && !isEvidence {
		p.o.Trail.Resolved(ctx, x.repo, tag, d, x.by)
	}
}

// sendManifest answers with m, and notes who was sent it. One that is not changed is one the client has, and one it was told of by a HEAD
// is one it does not have yet.
func (p *Proxy) sendManifest(x *exchange, r *http.Request, m manifest) error {
	if err := writeManifest(x.answer, r, m); err != nil {
		return err
	}
	if p.o.Trail != nil && r.Method == http.MethodGet && x.answer.status == http.StatusOK {
		p.o.Trail.Pulled(gate.Candidate{Repository: x.repo, Digest: m.desc.Digest}, x.by)
	}
	return nil
}

// lastGoodHold is how long the verdicts on what a tag stood for before are waited for. They were admitted here, so that a verdict on them
// is remembered, or made without reading a layer.
const lastGoodHold = 4 * time.Second

// maxLastGood bounds the earlier digests that are tried: after so many that are denied there is hardly one that is not.
const maxLastGood = 8

// servesLastGood reports whether q may be answered with what its tag stood for before. A digest is never answered with another one.
func (p *Proxy) servesLastGood(x *exchange, q oci.Request) bool {
	return p.o.LastGood != nil && q.Tag != "" && p.o.LastGood.Serves(x.repo)
}

// Why the last good digest is served, as metrics have it.
const (
	lastGoodDenied  = "denied"
	lastGoodPending = "pending"
)

// whyLastGood returns why something else may be served than what refusal refuses, as metrics have it: it is denied, or the client has
// waited for the verdict as long as it should. Empty when there is no refusal, and when the verdict failed: that may be our own fault.
func whyLastGood(hold context.Context, refusal error) string {
	switch {
	case isDenial(refusal):
		return lastGoodDenied
	case refusal != nil && hold.Err() != nil:
		return lastGoodPending
	}
	return ""
}

// lastGood returns the last digest that x's tag stood for before now and that is allowed by a verdict of its own, its children for the
// platforms in use too; ok is false when there is none. refusal is what is answered otherwise; why is one of the words above.
func (p *Proxy) lastGood(ctx context.Context, x *exchange, q oci.Request, now oci.Digest, refusal error, why string) (m manifest, ok bool) {
	earlier, err := p.o.LastGood.Earlier(ctx, x.repo, q.Tag, now)
	if err != nil {
		p.o.Log.WarnContext(ctx, "looking up the last good digest", "request_id", x.id, "upstream", x.repo.Upstream, "repo", x.repo.Path, "tag", q.Tag, "err", err)
		return manifest{}, false
	}
	hold, cancel := context.WithTimeout(ctx, min(lastGoodHold, p.o.Hold))
	defer cancel()
	for _, d := range earlier[:min(len(earlier), maxLastGood)] {
		c := gate.Candidate{Repository: x.repo, Digest: d}
		warning, err := p.judgeTag(c, q) // a waiver of what is said of the tag may be for the other digest alone
		if err != nil || !p.wasServed(ctx, x, c) {
			continue
		}
		m, err := p.admitted(ctx, hold, c)
		if err != nil || p.childrenAllowed(hold, x.repo, m) != nil {
			continue
		}
		m = m.warned(warning)
		m.replaces, m.refusal = now, answerTo(refusal).Message
		p.metrics.lastGood.WithLabelValues(why).Inc()
		p.o.Log.WarnContext(ctx, "the last good digest is served", "request_id", x.id, "why", why, "upstream", x.repo.Upstream, "repo", x.repo.Path,
			"tag", q.Tag, "digest", d.String(), "replaces", now.String(), "reasons", m.refusal)
		return m, true
	}
	return manifest{}, false
}

// wasServed reports whether c was let out here before and is still where it was.
func (p *Proxy) wasServed(ctx context.Context, x *exchange, c gate.Candidate) bool {
	if x.isHosted() {
		if _, err := p.o.Hosted.Contents.Stat(ctx, c.Repository, c.Digest); err != nil {
			return false
		}
	}
	released, err := p.o.History.Released(ctx, c)
	return err == nil && released
}

// markLastGood says in the header that m is not what its tag stands for, what that is, and why it is not to be had.
func markLastGood(h http.Header, m manifest) {
	addWarning(h, 299, "the tag stands for "+m.replaces.String()+" now, which is not to be had: "+m.refusal)
	h.Set("Tidewaiter-Last-Good", m.replaces.String()+" "+strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII {
			return '?'
		}
		return r
	}, oneLine(m.refusal)))
}
