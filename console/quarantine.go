package console

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/review"
)

// filter returns what list r asks for.
func filter(r *http.Request) (review.Filter, error) {
	q := r.URL.Query()
	f := review.Filter{N: review.DefaultPage, Rule: gate.Rule(q.Get("rule")), After: q.Get("after")}
	if n := q.Get("n"); n != "" {
		parsed, err := strconv.ParseUint(n, 10, 16)
		if err != nil {
			return review.Filter{}, invalid("n is not a number from 1 to %d", review.MaxPage)
		}
		f.N = int(parsed)
	}
	if f.Rule != "" && !slices.Contains(gate.Rules(), f.Rule) {
		return review.Filter{}, invalid("rule is not one of %v", gate.Rules())
	}
	if s := q.Get("severity"); s != "" {
		if err := f.Severity.UnmarshalText([]byte(s)); err != nil {
			return review.Filter{}, invalid("severity: %.60s", err)
		}
	}
	if s := q.Get("repository"); s != "" {
		p, err := oci.ParseFullPattern(s)
		if err != nil {
			return review.Filter{}, invalid("repository: %.300s", err)
		}
		f.Repositories = &p
	}
	return f, nil
}

func (c *Console) quarantine(r *http.Request) (review.Page, error) {
	see, err := c.reviewer(r)
	if err != nil {
		return review.Page{}, err
	}
	f, err := filter(r)
	if err != nil {
		return review.Page{}, err
	}
	f.May = see.repository
	return c.o.Review.Quarantine.List(r.Context(), f)
}

func (c *Console) serveQuarantine(w http.ResponseWriter, r *http.Request) {
	page, err := c.quarantine(r)
	c.writeJSON(w, r, page, err)
}

// listPage is what the page of the list shows: a part of it, and what was asked for.
type listPage struct {
	review.Page
	Repository, Rule, Severity string
	Rules                      []gate.Rule
	Severities                 []gate.Severity
}

func (c *Console) serveQuarantinePage(w http.ResponseWriter, r *http.Request) {
	page, err := c.quarantine(r)
	q := r.URL.Query()
	c.writePage(w, r, "quarantine.html", listPage{
		page, q.Get("repository"), q.Get("rule"), q.Get("severity"), gate.Rules(), []gate.Severity{gate.Low, gate.Medium, gate.High, gate.Critical},
	}, err)
}

// asked is what a path below the quarantine is about. Repositories have slashes, so what is asked of an image comes after its name.
type asked struct {
	ref oci.Reference
	// manifest asks for the bytes of the manifest, blob for those of a blob.
	manifest bool
	blob     oci.Digest
}

// parseAsked reads the path of a GET: REPOSITORY@DIGEST/manifest, REPOSITORY@DIGEST/blobs/DIGEST, or a reference.
func (c *Console) parseAsked(path string) (a asked, err error) {
	name, below, found := strings.Cut(path, "@")
	if digest, what, more := strings.Cut(below, "/"); found && more {
		path = name + "@" + digest
		blob, isBlob := strings.CutPrefix(what, "blobs/")
		switch {
		case what == "manifest":
			a.manifest = true
		case isBlob:
			if a.blob, err = oci.ParseDigest(blob); err != nil {
				return asked{}, err
			}
		default:
			return asked{}, &review.Refusal{Why: review.Unknown, Message: "there is nothing of that name below an image"}
		}
	}
	a.ref, err = oci.ParseReference(path, c.o.DefaultUpstream, c.o.Hosts)
	return a, err
}

func (c *Console) serveQuarantined(w http.ResponseWriter, r *http.Request) {
	a, err := c.parseAsked(r.PathValue("reference"))
	if err != nil {
		c.writeJSON(w, r, nil, err)
		return
	}
	if a.manifest || a.blob != "" {
		if err := c.sendBytes(w, r, a); err != nil {
			c.writeJSON(w, r, nil, err)
		}
		return
	}
	detail, err := c.detail(r, a.ref)
	c.writeJSON(w, r, detail, err)
}

func (c *Console) detail(r *http.Request, ref oci.Reference) (review.Detail, error) {
	if err := c.visible(r, ref.Repository); err != nil {
		return review.Detail{}, err
	}
	candidate, err := c.candidate(r, ref)
	if err != nil {
		return review.Detail{}, err
	}
	return c.o.Review.Quarantine.Show(r.Context(), candidate)
}

func (c *Console) serveQuarantinedPage(w http.ResponseWriter, r *http.Request) {
	ref, err := oci.ParseReference(r.PathValue("reference"), c.o.DefaultUpstream, c.o.Hosts)
	if err != nil {
		c.writePage(w, r, "", nil, err)
		return
	}
	detail, err := c.detail(r, ref)
	c.writePage(w, r, "held.html", detail, err)
}

// sendBytes sends what lies in quarantine to whoever is to decide about it, as something no program opens by itself: it is what the gate
// denied. An error it returns is answered by the caller; nothing has been sent then.
func (c *Console) sendBytes(w http.ResponseWriter, r *http.Request, a asked) error {
	by, err := c.decides(r, a.ref.Repository)
	if err != nil {
		return err
	}
	candidate := gate.Candidate{Repository: a.ref.Repository, Digest: a.ref.Digest}
	name := a.blob
	if a.manifest {
		name = candidate.Digest
	}
	content, size, err := c.openBytes(r, candidate, a)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }() // it was only read
	if err := c.o.Review.QuarantineDesk.Read(r.Context(), by, candidate, a.blob); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `attachment; filename="`+strings.Replace(name.String(), ":", "-", 1)+`.quarantined"`)
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	w.WriteHeader(http.StatusOK)
	if n, err := io.Copy(w, content); err != nil || n != size { // it must not be taken for the whole
		c.o.Log.WarnContext(r.Context(), "sending what is in quarantine", "candidate", candidate.String(), "digest", name.String(), "bytes", n, "err", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}

func (c *Console) openBytes(r *http.Request, candidate gate.Candidate, a asked) (content io.ReadCloser, size int64, err error) {
	if !a.manifest {
		return c.o.Review.Forensics.Blob(r.Context(), candidate, a.blob)
	}
	manifest, err := c.o.Review.Forensics.Manifest(r.Context(), candidate)
	return io.NopCloser(bytes.NewReader(manifest.Raw)), int64(len(manifest.Raw)), err
}

// Release is what is sent to release an image.
type Release struct {
	Reason string `json:"reason"`
	Ticket string `json:"ticket,omitempty"`
	// For is how long it lasts, "72h"; Until is until when. Exactly one of them.
	For   string    `json:"for,omitempty"`
	Until time.Time `json:"until,omitzero"`
}

// decideQuarantined releases or drops the image that the path names before its last component.
func (c *Console) decideQuarantined(w http.ResponseWriter, r *http.Request) {
	path := r.PathValue("reference")
	last := strings.LastIndexByte(path, '/')
	switch reference := path[:max(last, 0)]; path[last+1:] {
	case "release":
		released, err := c.release(w, r, reference)
		c.writeJSON(w, r, released, err)
	case "drop":
		c.writeJSON(w, r, struct{}{}, c.drop(w, r, reference))
	default:
		c.writeJSON(w, r, nil, &review.Refusal{Why: review.Unknown, Message: "an image can be released or dropped"})
	}
}

// decided returns the image a decision is about, and who may take it. body is read into on the way.
func (c *Console) decided(w http.ResponseWriter, r *http.Request, reference string, body any) (gate.Candidate, review.Person, error) {
	fail := func(err error) (gate.Candidate, review.Person, error) { return gate.Candidate{}, review.Person{}, err }
	ref, err := oci.ParseReference(reference, c.o.DefaultUpstream, c.o.Hosts)
	if err != nil {
		return fail(err)
	}
	by, err := c.decides(r, ref.Repository)
	if err != nil {
		return fail(err)
	}
	if err := readBody(w, r, body); err != nil {
		return fail(err)
	}
	candidate, err := c.candidate(r, ref)
	return candidate, by, err
}

func (c *Console) release(w http.ResponseWriter, r *http.Request, reference string) (review.Released, error) {
	var body Release
	candidate, by, err := c.decided(w, r, reference, &body)
	if err != nil {
		return review.Released{}, err
	}
	life, err := readFor(body.For)
	if err != nil {
		return review.Released{}, err
	}
	return c.o.Review.QuarantineDesk.Release(r.Context(), by, candidate, review.ReleaseRequest{
		Reason: body.Reason, Ticket: body.Ticket, Until: body.Until, For: life,
	})
}

func (c *Console) drop(w http.ResponseWriter, r *http.Request, reference string) error {
	var body Reasoned
	candidate, by, err := c.decided(w, r, reference, &body)
	if err != nil {
		return err
	}
	return c.o.Review.QuarantineDesk.Drop(r.Context(), by, candidate, body.Reason)
}
