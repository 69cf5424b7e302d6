package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// staleWarning is said of a tag that is answered from memory (RFC 7234, 5.5.1).
const staleWarning = "the upstream does not answer; this is what the tag meant last"

// manifest is what a request for a manifest is answered with.
type manifest struct {
	desc oci.Descriptor
	// raw is nil when there is no verdict yet; only a HEAD is then answered.
	raw []byte
	// warning is what would have denied it, were its policy's mode not warn; empty for nothing.
	warning string
	// stale says that the tag was answered from memory.
	stale bool
	// replaces is what the tag stands for, when this is what it stood for before; refusal is why that is not to be had.
	replaces oci.Digest
	refusal  string
}

// serveManifest answers end-3.
//
// Clients resolve by HEAD and show a refusal's text only if it comes with the GET that follows. So a HEAD gives the digest and
// starts the judging, and the GET waits for the verdict and carries the refusal. For a tag asked for by a mirror's client that is
// not enough: it would take any refusal as a reason to ask the origin. It gets a tombstone, unless it has yet to show who it is. Where
// what a tag stood for before may be served in place of what is refused, a HEAD waits for the verdict too, and tells what a GET gets.
// refused is why the caller may not ask for the repository; nil if it may.
func (p *Proxy) serveManifest(x *exchange, r *http.Request, q oci.Request, refused error) error {
	if refused != nil {
		return p.serveJudged(x, r, q, refused)
	}
	if own, err := p.isOurs(r.Context(), x.repo, q.Digest, false); err != nil {
		return err
	} else if own {
		return p.serveStated(x, r, q.Digest, false)
	}
	err := p.serveJudged(x, r, q, nil)
	if oci.IsMissing(err) && p.o.Statements != nil && q.Digest != "" { // another replica may have stated something a moment ago
		if own := p.serveStated(x, r, q.Digest, true); !oci.IsMissing(own) {
			return own
		}
	}
	return err
}

// serveJudged answers end-3 with what is judged.
func (p *Proxy) serveJudged(x *exchange, r *http.Request, q oci.Request, refused error) error {
	if errors.Is(refused, oci.ErrUnauthorized) {
		return refused
	}
	if refused == nil && p.seesPending(x) {
		return p.servePending(x, r, q)
	}
	mirroredTag := q.NS != "" && q.Tag != ""
	if q.NS != "" && !mirroredTag {
		if buried, ok := p.tombstones.find(x.repo, q.Digest); ok {
			return buried
		}
	}
	m, err := manifest{}, refused
	switch {
	case err != nil:
	case r.Method == http.MethodHead && !mirroredTag && !p.servesLastGood(x, q):
		m, err = p.statManifest(r.Context(), x, q)
	default:
		m, err = p.openManifest(r.Context(), x, q)
	}
	if d, ok := errors.AsType[*denied](err); ok {
		p.o.Denied(d.candidate, x.caller)
	}
	switch {
	case err == nil:
		return p.sendManifest(x, r, m)
	case r.Method == http.MethodHead && mirroredTag && !oci.IsMissing(err):
		return p.writeTombstone(x.answer, x.repo, err)
	default:
		return err
	}
}

// openManifest returns an allowed manifest, waiting for the verdict: what q asks for or, where that may be, what its tag stood for before.
// Errors: an oci.Error of code DENIED when it is denied; others when there is no verdict.
func (p *Proxy) openManifest(ctx context.Context, x *exchange, q oci.Request) (manifest, error) {
	desc, stale, err := p.resolve(ctx, x, q)
	if err != nil {
		return manifest{}, err
	}
	c := gate.Candidate{Repository: x.repo, Digest: desc.Digest}
	warning, err := p.judgeTag(c, q)
	if err != nil {
		return manifest{}, err
	}
	wait, lastGood := p.o.Hold, p.servesLastGood(x, q)
	if lastGood { // both waits together are no longer than one
		wait -= min(lastGoodHold, wait/2)
	}
	hold, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	m, err := p.admitted(ctx, hold, c)
	whole := err
	if err == nil && q.Tag != "" && (q.NS != "" || lastGood) {
		whole = p.childrenAllowed(hold, x.repo, m)
	}
	if q.NS != "" { // other clients may have what is admitted of an index
		err = whole
	}
	if why := whyLastGood(hold, whole); lastGood && why != "" && ctx.Err() == nil {
		if good, ok := p.lastGood(ctx, x, q, desc.Digest, whole, why); ok {
			return good, nil
		}
	}
	m.stale = stale
	return m.warned(warning), err
}

// statManifest returns what a manifest is, and its content only if it is known to be allowed. A digest that was released here
// before may have been withdrawn since, and a node that holds it asks by HEAD alone: there the verdict is waited for.
func (p *Proxy) statManifest(ctx context.Context, x *exchange, q oci.Request) (manifest, error) {
	repo := x.repo
	desc, stale, err := p.resolve(ctx, x, q)
	if err != nil {
		return manifest{}, err
	}
	c := gate.Candidate{Repository: repo, Digest: desc.Digest}
	warning, err := p.judgeTag(c, q)
	if err != nil {
		return manifest{}, err
	}
	released, err := p.o.History.Released(ctx, c)
	if err != nil {
		return manifest{}, unavailable("could not look up what was released", err)
	}
	if released {
		hold, cancel := context.WithTimeout(ctx, p.o.Hold)
		defer cancel()
		m, err := p.admitted(ctx, hold, c)
		m.stale = stale
		return m.warned(warning), err
	}
	if desc.MediaType == "" { // nobody has told it and the size yet
		if desc, stale, err = p.o.Resolver.Resolve(ctx, repo, q.Digest.String()); err != nil {
			return manifest{}, failure("could not look up the manifest", err)
		}
		if desc.Digest != q.Digest {
			return manifest{}, unavailable("the upstream answers with another manifest", fmt.Errorf("asked for %s, got %s", q.Digest, desc.Digest))
		}
	}
	p.o.Judge.Start(c)
	return manifest{desc: desc, stale: stale, warning: warning}, nil
}

// resolve returns the descriptor q asks for; of a digest at an upstream nothing more than that.
func (p *Proxy) resolve(ctx context.Context, x *exchange, q oci.Request) (desc oci.Descriptor, stale bool, err error) {
	if x.isHosted() {
		desc, err = p.resolveHosted(ctx, x, q)
		return desc, false, err
	}
	if q.Digest != "" {
		return oci.Descriptor{Digest: q.Digest}, false, nil
	}
	desc, stale, err = p.o.Resolver.Resolve(ctx, x.repo, q.Tag)
	if err == nil && !stale {
		p.resolved(ctx, x, q.Tag, desc.Digest)
	}
	return desc, stale, failure("could not resolve the tag", err)
}

// admitted returns the manifest of c under a verdict that allows it. Nothing else in this package opens a manifest.
func (p *Proxy) admitted(ctx, hold context.Context, c gate.Candidate) (manifest, error) {
	v, err := p.verdict(hold, c)
	if err != nil {
		return manifest{}, err
	}
	if !v.Allowed() {
		return manifest{}, &denied{c, p.denial(c, v, "")}
	}
	content, err := p.o.Released.Manifest(ctx, c)
	if err != nil { // a verdict allows it, so not having it is a failure, whatever the reason
		return manifest{}, unavailable("could not read the manifest", err)
	}
	if content.Digest != c.Digest {
		return manifest{}, fmt.Errorf("opening %s: got %s", c, content.Digest)
	}
	return manifest{desc: content.Descriptor(), raw: content.Raw, warning: v.WarningSummary()}, nil
}

// maxStartedChildren bounds the children of one index that are judged side by side. Indexes have one or two for the platforms of a
// cluster; whoever lists more has them judged one after the other, until the client has waited long enough.
const maxStartedChildren = 8

// childrenAllowed returns nil unless m is an index and one of its children, for the platforms in use, is not allowed. A mirror's
// client asks for the child by digest, where no tombstone can stop it from asking the origin, so it must not learn of the index.
func (p *Proxy) childrenAllowed(hold context.Context, repo oci.Repository, m manifest) error {
	parsed, err := oci.ParseManifest(m.desc.MediaType, m.raw)
	if err != nil {
		return fmt.Errorf("parsing the allowed manifest %s: %w", m.desc.Digest, err)
	}
	children := slices.DeleteFunc(parsed.Manifests, func(d oci.Descriptor) bool { return !p.wanted(d) })
	for _, child := range children[:min(len(children), maxStartedChildren)] {
		p.o.Judge.Start(gate.Candidate{Repository: repo, Digest: child.Digest})
	}
	for _, child := range children {
		c := gate.Candidate{Repository: repo, Digest: child.Digest}
		v, err := p.verdict(hold, c)
		switch {
		case oci.IsMissing(err): // an index may list what its repository does not hold; clients of other platforms need the rest
			continue
		case err != nil:
			return err
		case !v.Allowed():
			return &denied{c, p.denial(c, v, platformOf(child))}
		}
	}
	return nil
}

// wanted reports whether a client may choose the child d: it is for a platform in use, or does not say which it is for.
func (p *Proxy) wanted(d oci.Descriptor) bool {
	if d.Platform == nil {
		return true
	}
	return slices.Contains(p.o.Platforms, d.Platform.OS+"/"+d.Platform.Architecture) ||
		slices.Contains(p.o.Platforms, platformOf(d))
}

func platformOf(d oci.Descriptor) string {
	if d.Platform == nil {
		return "a child for any platform"
	}
	s := d.Platform.OS + "/" + d.Platform.Architecture
	if d.Platform.Variant != "" {
		s += "/" + d.Platform.Variant
	}
	return s
}

// writeManifest renders m. The manifest is sent as it is whatever the client accepts: another form would have another digest.
func writeManifest(w *answer, r *http.Request, m manifest) error {
	h := w.Header()
	if m.warning != "" {
		addWarning(h, 299, m.warning)
	}
	if m.stale {
		addWarning(h, 110, staleWarning)
	}
	if m.replaces != "" {
		markLastGood(h, m)
	}
	if m.raw != nil {
		return writeContent(w, r, m.desc, bytes.NewReader(m.raw))
	}
	if r.Method != http.MethodHead {
		return errors.New("a manifest was to be served without a verdict")
	}
	describe(h, m.desc)
	if m.desc.Size > 0 {
		h.Set("Content-Length", strconv.FormatInt(m.desc.Size, 10))
	}
	w.WriteHeader(http.StatusOK)
	return nil
}
