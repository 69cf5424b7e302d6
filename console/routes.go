package console

import (
	_ "embed"
	"net/http"
)

// openAPI is what the admin API is, as OpenAPI 3.1. A test compares its paths with the routes there are.
//
//go:embed openapi.json
var openAPI []byte

// routes is a mux that remembers what it was told to serve.
type routes struct {
	*http.ServeMux
	// patterns are in the order they were given: "GET /api/v1/waivers/{id}".
	patterns []string
}

// HandleFunc is that of [http.ServeMux].
func (r *routes) HandleFunc(pattern string, serve func(http.ResponseWriter, *http.Request)) {
	r.patterns = append(r.patterns, pattern)
	r.ServeMux.HandleFunc(pattern, serve)
}

// note remembers a route that another one serves, because what it is about has slashes in the middle of the path.
func (r *routes) note(pattern string) { r.patterns = append(r.patterns, pattern) }

func (c *Console) serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI) // whoever asked may have gone
}

// Routes returns what the console serves, as [http.ServeMux] writes it: "GET /api/v1/waivers/{id}".
func (c *Console) Routes() []string { return c.mux.patterns }
