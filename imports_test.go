// Package tidewaiter holds the tests that are about the module as a whole.
package tidewaiter

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tidewaiter/tidewaiter"

// everywhere are modules any package may import: they are the Go team's, and small.
var everywhere = []string{"golang.org/x/sync"}

// rule is what the non-test files of one package may import besides the standard library.
type rule struct {
	ours       []string // packages of this module
	theirs     []string // prefixes of import paths of other modules
	notFromStd []string // prefixes in the standard library that are forbidden
}

// rules is the import table. A package that is not in it fails the test, so that each new one is thought about.
var rules = map[string]rule{
	"oci":  {theirs: []string{"github.com/opencontainers/go-digest", "github.com/opencontainers/image-spec"}},
	"seal": {},
	// The gate decides. It must not know how anything is fetched, kept, read or timed.
	"gate":   {ours: []string{"oci"}, notFromStd: []string{"net", "os", "database", "archive", "compress"}},
	"hosted": {ours: []string{"oci", "gate"}, notFromStd: []string{"net", "os", "database"}},
	"policy": {ours: []string{"oci", "gate"}, theirs: []string{"go.yaml.in/yaml/v3", "github.com/fsnotify/fsnotify", "cel.dev/cel-go"}},
	// Credentials are fetched here and sent by whoever asks, so neither side knows the other.
	"credential": {theirs: []string{
		"github.com/aws/aws-sdk-go-v2/config", "github.com/aws/aws-sdk-go-v2/service/ecr", "golang.org/x/oauth2",
		"github.com/Azure/azure-sdk-for-go/sdk/azidentity", "github.com/Azure/azure-sdk-for-go/sdk/azcore/policy",
	}},
	"upstream":   {ours: []string{"oci"}, theirs: []string{"oras.land/oras-go/v2/registry/remote"}},
	"quarantine": {ours: []string{"oci", "gate"}, theirs: []string{"github.com/distribution/distribution/v3/registry/storage/driver"}},
	"ledger":     {ours: []string{"oci", "gate", "hosted", "seal"}, theirs: []string{"github.com/distribution/distribution/v3/registry/storage/driver"}},
	"scan": {ours: []string{"oci", "gate"}, theirs: []string{
		"github.com/google/osv-scalibr", "github.com/klauspost/compress", "go.etcd.io/bbolt", "github.com/landlock-lsm/go-landlock",
		"github.com/elastic/go-seccomp-bpf", "modernc.org/sqlite", "golang.org/x/sys/unix",
	}},
	"access": {ours: []string{"oci", "seal"}, theirs: []string{
		"github.com/coreos/go-oidc/v3/oidc", "github.com/go-jose/go-jose/v4", "golang.org/x/crypto/bcrypt", "go.yaml.in/yaml/v3",
	}},
	"eviction":         {ours: []string{"gate"}, notFromStd: []string{"net", "os"}},
	"review":           {ours: []string{"oci", "gate"}, notFromStd: []string{"net", "os", "database"}},
	"malware":          {ours: []string{"oci", "gate"}},
	"advisories":       {ours: []string{"oci", "gate"}, theirs: []string{"github.com/fsnotify/fsnotify"}},
	"report":           {ours: []string{"oci", "gate"}, notFromStd: []string{"net", "os"}},
	"audit":            {ours: []string{"seal"}},
	"signing":          {ours: []string{"oci", "gate"}, theirs: []string{"github.com/sigstore/", "google.golang.org/protobuf/encoding/protojson", "github.com/notaryproject/", "github.com/opencontainers/image-spec"}},
	"signing/kms":      {theirs: []string{"github.com/sigstore/sigstore"}},
	"cache":            {ours: []string{"oci", "gate", "seal"}, theirs: []string{"github.com/hashicorp/golang-lru/v2", "github.com/redis/go-redis/v9"}},
	"cache/cachetest":  {ours: []string{"oci", "gate"}, theirs: []string{"github.com/google/go-cmp"}},
	"trail":            {ours: []string{"oci", "gate"}, notFromStd: []string{"net", "os", "database"}},
	"proxy":            {ours: []string{"oci", "gate", "access", "hosted", "trail"}, theirs: []string{"github.com/prometheus/client_golang"}},
	"rejudge":          {ours: []string{"oci", "gate"}, notFromStd: []string{"net", "os", "database"}},
	"notify":           {ours: []string{"oci", "gate"}},
	"tracing":          {theirs: []string{"go.opentelemetry.io/otel"}},
	"forward":          {ours: []string{"oci", "gate"}},
	"simulation":       {ours: []string{"oci", "gate"}, notFromStd: []string{"net", "os", "database"}},
	"console":          {ours: []string{"oci", "gate", "access", "audit", "trail", "review", "notify", "simulation"}, theirs: []string{"github.com/prometheus/client_golang"}},
	"internal/ocitest": {ours: []string{"oci"}, theirs: []string{"github.com/opencontainers/image-spec", "github.com/klauspost/compress", "go.etcd.io/bbolt"}},
	"cmd/tidewaiter": {
		ours: []string{"access", "advisories", "audit", "cache", "console", "credential", "eviction", "forward", "gate", "hosted", "internal/ocitest", "ledger", "malware", "notify", "oci", "policy", "proxy", "quarantine", "rejudge", "report", "review", "scan", "seal", "signing", "signing/kms", "simulation", "tracing", "trail", "upstream"},
		theirs: []string{
			"github.com/spf13/", "github.com/go-viper/mapstructure/v2", "github.com/prometheus/client_golang", "github.com/distribution/distribution/v3/registry/storage/driver",
			"golang.org/x/term",
		},
	},
}

func TestImports(t *testing.T) {
	seen := map[string]bool{}
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && file != ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		dir := filepath.ToSlash(filepath.Dir(file))
		seen[dir] = true
		allowed, ok := rules[dir]
		if !ok {
			t.Errorf("%s: package %s is not in the import table", file, dir)
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if !allowed.allows(imported) {
				t.Errorf("%s: %s must not import %s", file, dir, imported)
			}
			if dir != "cmd/tidewaiter" && imported == "github.com/spf13/viper" {
				t.Errorf("%s: only cmd reads the environment", file)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir := range rules {
		if !seen[dir] {
			t.Errorf("the import table has %s, which does not exist", dir)
		}
	}
}

func (r rule) allows(imported string) bool {
	under := func(prefix string) bool {
		return imported == prefix || strings.HasPrefix(imported, strings.TrimSuffix(prefix, "/")+"/")
	}
	if imported == module || strings.HasPrefix(imported, module+"/") {
		return slices.Contains(r.ours, strings.TrimPrefix(imported, module+"/"))
	}
	if first, _, _ := strings.Cut(path.Clean(imported), "/"); !strings.Contains(first, ".") { // the standard library
		return !slices.ContainsFunc(r.notFromStd, under)
	}
	return slices.ContainsFunc(slices.Concat(everywhere, r.theirs), under)
}

func TestImportRules(t *testing.T) {
	for name, tt := range map[string]struct {
		rule     rule
		imported string
		want     bool
	}{
		"ours that is listed":         {rules["policy"], module + "/gate", true},
		"ours that is not":            {rules["proxy"], module + "/upstream", false},
		"a package below one of ours": {rules["proxy"], module + "/gate/deep", false},
		"theirs that is listed":       {rules["cache"], "github.com/redis/go-redis/v9", true},
		"theirs with a like name":     {rules["cache"], "github.com/redis/go-redis/v99", false},
		"the standard library":        {rules["gate"], "context", true},
		"a forbidden part of it":      {rules["gate"], "net/http", false},
	} {
		if got := tt.rule.allows(tt.imported); got != tt.want {
			t.Errorf("%s: got %t, want %t", name, got, tt.want)
		}
	}
}
