package console

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/tidewaiter/tidewaiter/audit"
	"github.com/tidewaiter/tidewaiter/oci"
)

// AuditLog tells who did what. Implementations are safe for concurrent use. Errors: audit.ErrNoFile.
type AuditLog interface {
	// Recent returns the newest entries that q asks for. Errors: audit.ErrPosition.
	Recent(ctx context.Context, q audit.Query) (audit.Page, error)
	// Verify says whether the whole log is as it was written, which takes as long as reading it.
	Verify(ctx context.Context) (audit.Report, error)
}

// defaultEntries is how many entries an answer has unless another number is asked for.
const defaultEntries = 50

// AuditPage is what the admin API says of the audit log.
type AuditPage struct {
	audit.Page
	// Verified is what verifying the whole log found; nil when that was not asked for.
	Verified *audit.Report `json:"verified,omitempty"`
}

var (
	errNoAudit  = &oci.Error{Code: oci.CodeUnknown, HTTPStatus: http.StatusNotFound, Message: "audit.path is not set, so what happens is in the log of the process alone"}
	errPosition = &oci.Error{Code: oci.CodePaginationInvalid, Message: "before is not what a page said was next"}
)

func (c *Console) addAudit() {
	if c.o.Audit == nil {
		return
	}
	c.mux.HandleFunc("GET /api/v1/audit", c.answering(func(r *http.Request) (any, error) { return c.audit(r) }))
	c.mux.HandleFunc("GET /audit", c.serveAuditPage)
}

// audit returns the entries that r asks for, if whoever sends it operates all of this.
func (c *Console) audit(r *http.Request) (AuditPage, error) {
	if err := c.operates(r, "looking at the audit log"); err != nil {
		return AuditPage{}, err
	}
	q := r.URL.Query()
	asked := audit.Query{Before: q.Get("before"), N: defaultEntries, Wanted: wanted(q.Get("event"), q.Get("caller"), q.Get("repository"))}
	if s := q.Get("n"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > audit.MaxRecent {
			return AuditPage{}, invalid("n is not a number from 1 to %d", audit.MaxRecent)
		}
		asked.N = n
	}
	verify, err := strconv.ParseBool(q.Get("verify"))
	if err != nil && q.Get("verify") != "" {
		return AuditPage{}, invalid("verify is neither true nor false")
	}
	page, err := c.o.Audit.Recent(r.Context(), asked)
	switch {
	case errors.Is(err, audit.ErrNoFile):
		return AuditPage{}, errNoAudit
	case errors.Is(err, audit.ErrPosition):
		return AuditPage{}, errPosition
	case err != nil || !verify:
		return AuditPage{Page: page}, err
	}
	report, err := c.o.Audit.Verify(r.Context())
	return AuditPage{Page: page, Verified: &report}, err
}

// wanted returns what tells whether an event is asked for; empty texts ask for all.
func wanted(event, caller, repository string) func(audit.Event) bool {
	return func(e audit.Event) bool {
		return (event == "" || e.Event == event) && (caller == "" || e.Caller == caller) && (repository == "" || e.Repository == repository)
	}
}

// auditPage is what the page of the audit log shows: a part of it, and what was asked for.
type auditPage struct {
	AuditPage
	Event, Caller, Repository string
}

func (c *Console) serveAuditPage(w http.ResponseWriter, r *http.Request) {
	page, err := c.audit(r)
	q := r.URL.Query()
	c.writePage(w, r, "audit.html", auditPage{page, q.Get("event"), q.Get("caller"), q.Get("repository")}, err)
}
