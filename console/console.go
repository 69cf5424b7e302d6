// Package console owns what operators see: the pages and the admin API, with health and metrics, on a listener of their own.
//
// It promises to show a verdict as it was recorded, with the inputs it was made from, where it is told who reviews what to them alone; to
// let those decide, and nobody else, and nobody by way of a page of another site; and to send no byte of an image but to them, on record,
// as something no client takes for one. It should not be reachable by whoever pulls images.
package console

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/trail"
)

//go:embed tmpl/*.html
var pages embed.FS

// History tells what was decided. Implementations are safe for concurrent use.
type History interface {
	// History returns the verdicts on c, newest first; none is no error.
	History(ctx context.Context, c gate.Candidate) ([]gate.Verdict, error)
}

// Resolver turns a reference into a digest. Implementations are safe for concurrent use.
type Resolver interface {
	// Resolve returns the descriptor of reference in repo. Errors: those of the registry, as oci.Error.
	Resolve(ctx context.Context, repo oci.Repository, reference string) (desc oci.Descriptor, stale bool, err error)
}

// Access knows who is asking and what they may see. Implementations are safe for concurrent use.
type Access interface {
	// Identify returns who sends r. Errors: an oci.Error that whoever asks may see; credentials that are not good are one.
	Identify(r *http.Request) (access.Caller, error)
	// May reports whether caller may do action in repo.
	May(caller access.Caller, action access.Action, repo oci.Repository) bool
	// Allow is May, on record. Errors: an oci.Error that whoever asks may see, UNAUTHORIZED where showing who one is could help.
	Allow(ctx context.Context, caller access.Caller, action access.Action, repo oci.Repository) error
}

// Options are what a Console is built from. History, Resolver, Metrics and Log are needed.
type Options struct {
	History  History
	Resolver Resolver
	Metrics  prometheus.Gatherer
	Log      *slog.Logger
	// Access says who may see what was decided about a repository: those who review there. Nil lets everybody who reaches the console.
	Access Access
	// Trail tells what was seen of images, and Judge how those stand that a tag stood for. Nil where nobody knows.
	Trail Trail
	Judge Judge
	// Policy is what policies are shown and tried with. Nil shows none.
	Policy *Policy
	// Operators says who runs all of this; needed with Access.
	Operators Operators
	// Events are what happens, Letters what webhooks could not be told of it. Nil: there is neither.
	Events  Events
	Letters Letters
	// Until ends the streams of events, so that the process can end; nil for never.
	Until context.Context
	// Ready returns why requests cannot be served, in words that whoever asks may read, or nil. Nil means always ready.
	Ready func(context.Context) error
	// DefaultUpstream is where references without a host belong that are not hosted here.
	DefaultUpstream string
	// Hosts reports whether the repository at path is hosted here. Nil hosts nothing.
	Hosts func(path string) bool
	// Advisories returns what is known of the advisory data, to be shown as JSON to whoever reaches the console. Nil shows nothing.
	Advisories func(context.Context) (any, error)
	// Images lists what was judged, Audit who did what. Nil where nobody knows.
	Images Images
	Audit  AuditLog
	// Statements tell what is stated of images to others. Nil where nothing is.
	Statements Statements
	// Review is what people decide with. Nil for a console that only shows.
	Review *Review
	// Version is shown on every page.
	Version string
	// Unsafe lists the unsafe options that are on; every page shows them.
	Unsafe []string
}

// Console answers operators. It is safe for concurrent use.
type Console struct {
	o     Options
	mux   *routes
	pages *template.Template
}

// New returns a Console. It panics when an option it cannot do without is missing, or its own pages do not parse.
func New(o Options) *Console {
	if o.History == nil || o.Resolver == nil || o.Metrics == nil || o.Log == nil {
		panic("console: an option is missing")
	}
	if o.Ready == nil {
		o.Ready = func(context.Context) error { return nil }
	}
	c := &Console{o: o, mux: &routes{ServeMux: http.NewServeMux()}, pages: template.Must(template.New("").Funcs(functions()).ParseFS(pages, "tmpl/*.html"))}
	c.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok") })
	c.mux.HandleFunc("GET /readyz", c.serveReady)
	c.mux.Handle("GET /metrics", promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{}))
	c.mux.HandleFunc("GET /api/v1/images/{reference...}", c.serveImageJSON)
	c.addEvents()
	c.mux.HandleFunc("GET /images/{reference...}", c.serveImagePage)
	if o.Advisories != nil {
		c.mux.HandleFunc("GET /api/v1/advisories", c.serveAdvisories)
		c.mux.HandleFunc("GET /advisories", c.serveAdvisoriesPage)
	}
	c.addImages()
	c.addAudit()
	c.routeTrail()
	c.routePolicy()
	c.mux.HandleFunc("GET /api/v1/openapi.json", c.serveOpenAPI)
	if o.Review != nil {
		c.addReview()
	}
	c.mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { c.render(w, r, http.StatusOK, "home.html", nil) })
	return c
}

// ServeHTTP implements http.Handler.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", contentPolicy+"'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer") // image names are nobody else's business
	h.Set("Cache-Control", "no-store")      // a verdict is true now
	c.mux.ServeHTTP(w, r)
}

func (c *Console) serveReady(w http.ResponseWriter, r *http.Request) {
	if err := c.o.Ready(r.Context()); err != nil {
		writeText(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
		return
	}
	writeText(w, http.StatusOK, "ready")
}

// How many earlier verdicts an answer holds: as many as a page shows, unless ?history= asks for another number up to the greatest.
// Each may have a thousand findings.
const (
	defaultHistory = 20
	MaxHistory     = 1000
)

// Image is what the admin API says of one image.
type Image struct {
	Reference string `json:"reference"`
	// Verdict is the newest.
	Verdict gate.Verdict `json:"verdict"`
	// Explained says of each reason of the verdict where it is asked for and what can be done.
	Explained []Explanation `json:"explained,omitempty"`
	// History are the verdicts before it, newest first, as many as were asked for.
	History []gate.Verdict `json:"history"`
	// Pulls are who was sent it. Recalled says that it was withdrawn since; nil when it was not.
	Pulls    trail.Pullers `json:"pulls"`
	Recalled *trail.Recall `json:"recalled,omitempty"`
	// Tagged is what the tag it was asked for by stood for, newest first; nil when it was asked for by digest.
	Tagged []trail.Tagged `json:"tagged,omitempty"`
	// Statement is what we state of it to others; nil for nothing.
	Statement *Statement `json:"statement,omitempty"`
}

// errHistory says that ?history= is not a number of verdicts.
var errHistory = &oci.Error{Code: oci.CodePaginationInvalid, Message: fmt.Sprintf("history is not a number from 0 to %d", MaxHistory)}

// errNoVerdict says that an image was never judged here.
var errNoVerdict = &oci.Error{Code: oci.CodeManifestUnknown, Message: "no verdict has been made on this image"}

// image looks up what was decided about the reference r asks for. Errors: those of parsing and resolving it; errNoVerdict, errHistory.
func (c *Console) image(r *http.Request) (Image, error) {
	ctx, reference, earlier := r.Context(), r.PathValue("reference"), defaultHistory
	if asked := r.URL.Query().Get("history"); asked != "" {
		n, err := strconv.ParseUint(asked, 10, 16)
		if err != nil || n > MaxHistory {
			return Image{}, errHistory
		}
		earlier = int(n)
	}
	ref, err := oci.ParseReference(reference, c.o.DefaultUpstream, c.o.Hosts)
	if err != nil {
		return Image{}, err
	}
	if err := c.visible(r, ref.Repository); err != nil {
		return Image{}, err
	}
	if ref.Digest == "" {
		desc, _, err := c.o.Resolver.Resolve(ctx, ref.Repository, ref.Tag)
		if err != nil {
			return Image{}, err
		}
		ref.Digest = desc.Digest
	}
	history, err := c.o.History.History(ctx, gate.Candidate{Repository: ref.Repository, Digest: ref.Digest})
	if err != nil {
		return Image{}, err
	}
	if len(history) == 0 {
		return Image{}, errNoVerdict
	}
	before := history[1:]
	image := Image{Reference: ref.String(), Verdict: history[0], Explained: Explain(history[0]), History: before[:min(earlier, len(before))]}
	if err := c.seen(ctx, ref, &image); err != nil {
		return Image{}, err
	}
	return image, c.stated(ctx, &image)
}

// visible returns nil if whoever sends r may see what was decided about repo. Looking is not put on record, being kept from it is.
func (c *Console) visible(r *http.Request, repo oci.Repository) error {
	if c.o.Access == nil {
		return nil
	}
	caller, err := c.o.Access.Identify(r)
	if err != nil || c.o.Access.May(caller, access.Review, repo) {
		return err
	}
	return c.o.Access.Allow(r.Context(), caller, access.Review, repo)
}

func (c *Console) serveImageJSON(w http.ResponseWriter, r *http.Request) {
	image, err := c.image(r)
	c.writeJSON(w, r, image, err)
}

func (c *Console) serveAdvisories(w http.ResponseWriter, r *http.Request) {
	body, err := c.o.Advisories(r.Context())
	c.writeJSON(w, r, body, err)
}

// writeJSON answers with body or, when err is not nil, with the sentence for it.
func (c *Console) writeJSON(w http.ResponseWriter, r *http.Request, body any, err error) {
	c.writeJSONAs(w, r, http.StatusOK, body, err)
}

// writeJSONAs is writeJSON with the status of an answer that is no failure.
func (c *Console) writeJSONAs(w http.ResponseWriter, r *http.Request, status int, body any, err error) {
	if err != nil {
		var message string
		status, message = c.failure(w, r, err)
		body = map[string]string{"error": message}
	}
	raw, err := json.Marshal(body)
	if err != nil {
		c.o.Log.ErrorContext(r.Context(), "encoding an answer", "err", err)
		writeText(w, http.StatusInternalServerError, "internal error")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(raw, '\n')) // whoever asked may have gone
}

func (c *Console) serveImagePage(w http.ResponseWriter, r *http.Request) {
	image, err := c.image(r)
	if err != nil {
		status, message := c.failure(w, r, err)
		c.render(w, r, status, "error.html", message)
		return
	}
	c.render(w, r, http.StatusOK, "image.html", image)
}

// failure returns the status and the sentence for err; 200 when there is none. What is not an [oci.Error] is for the log. Whoever has to
// show who he is is asked for a password, which browsers know how to ask people for; tokens are taken too.
func (c *Console) failure(w http.ResponseWriter, r *http.Request, err error) (status int, message string) {
	if err == nil {
		return http.StatusOK, ""
	}
	if e, ok := errors.AsType[*oci.Error](told(err)); ok {
		if e.Status() == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="tidewaiter"`)
		}
		return e.Status(), e.Message
	}
	if bad, ok := errors.AsType[*malformed](err); ok {
		return http.StatusBadRequest, bad.message
	}
	c.o.Log.ErrorContext(r.Context(), "answering an operator", "path", r.URL.Path, "err", err)
	return http.StatusInternalServerError, "internal error"
}

// render writes a page. It is built in memory first, so that a page is either whole or an error.
func (c *Console) render(w http.ResponseWriter, r *http.Request, status int, page string, content any) {
	var out bytes.Buffer
	nav := c.navigation(r.URL.Path)
	data := struct {
		Version, Title string
		Unsafe         []string
		Navigation     []link
		Content        any
	}{c.o.Version, title(r, nav), c.o.Unsafe, nav, content}
	if err := c.pages.ExecuteTemplate(&out, page, data); err != nil {
		c.o.Log.ErrorContext(r.Context(), "rendering a page", "page", page, "err", err)
		writeText(w, http.StatusInternalServerError, "internal error")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // whoever asked may have gone
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // whoever asked may have gone
}
