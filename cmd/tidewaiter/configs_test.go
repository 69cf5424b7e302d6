package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"

	"github.com/tidewaiter/tidewaiter/policy"
	"github.com/tidewaiter/tidewaiter/upstream"
)

const (
	exampleConfig = "../../configs/tidewaiter.yaml"
	manifestFile  = "../../deploy/kubernetes.yaml"
)

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestExampleConfigurationIsTheDefaults(t *testing.T) {
	got, err := loadConfig(exampleConfig)
	if err != nil {
		t.Fatal(err)
	}
	want, err := loadConfig("")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(config{}, "Upstreams"), cmp.AllowUnexported(config{})); diff != "" {
		t.Errorf("the example says other than the defaults (-example +default):\n%s", diff)
	}
	upstreams := got.upstreams()
	for i, u := range upstreams {
		if slices.Equal(u.Allow, []string{"**"}) { // written for those who read it; nil means the same
			upstreams[i].Allow = nil
		}
	}
	if diff := cmp.Diff(upstreams, upstream.Defaults(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the example has other upstreams than the defaults (-example +default):\n%s", diff)
	}
}

// commented returns what the file says of each key, keys under their path: "listen.tls.cert". Of a list the first item is taken.
func commented(t *testing.T, file string) map[string]string {
	t.Helper()
	var document yaml.Node
	if err := yaml.Unmarshal(readFile(t, file), &document); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	var walk func(n *yaml.Node, path string)
	walk = func(n *yaml.Node, path string) {
		switch {
		case n.Kind == yaml.SequenceNode && len(n.Content) > 0:
			walk(n.Content[0], path)
		case n.Kind == yaml.MappingNode:
			for i := 0; i < len(n.Content); i += 2 {
				key, value := n.Content[i], n.Content[i+1]
				name := strings.TrimPrefix(path+"."+key.Value, ".")
				found[name] = strings.Join([]string{key.HeadComment, key.LineComment, value.HeadComment, value.LineComment}, " ")
				if i == 0 {
					found[name] += n.HeadComment
				}
				walk(value, name)
			}
		}
	}
	walk(document.Content[0], "")
	return found
}

// keysOf returns the keys a configuration decoded into t may have, those of lists as if they were not in a list.
func keysOf(t reflect.Type, path string) []string {
	for t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for f := range t.Fields() {
		if f.Tag.Get("mapstructure") == ",squash" {
			keys = append(keys, keysOf(f.Type, path)...)
			continue
		}
		name := strings.ToLower(f.Name)
		if tag := f.Tag.Get("mapstructure"); tag != "" {
			name = tag
		}
		name = strings.TrimPrefix(path+"."+name, ".")
		keys = append(append(keys, name), keysOf(f.Type, name)...)
	}
	return keys
}

func TestExampleConfigurationHasEveryKey(t *testing.T) {
	says := commented(t, exampleConfig)
	for _, key := range keysOf(reflect.TypeFor[config](), "") {
		list, _, inList := cutList(key)
		if inList { // the list is empty there, and the comment on it shows an entry
			if last := key[strings.LastIndexByte(key, '.')+1:]; !strings.Contains(says[list], last+":") && !strings.Contains(says[list], last+" ") {
				t.Errorf("%s says nothing of %s at %s", exampleConfig, key, list)
			}
			continue
		}
		if _, ok := says[key]; !ok {
			t.Errorf("%s has the key %s no word about", exampleConfig, key)
		}
	}
}

// cutList parts a key below one of the lists that are empty in the example.
func cutList(key string) (list, below string, ok bool) {
	for _, list := range []string{"hosted", "access.anonymous", "access.oidc", "access.grants", "webhooks"} {
		if below, ok := strings.CutPrefix(key, list+"."); ok {
			return list, below, true
		}
	}
	return "", "", false
}

func TestExampleConfigurationSaysWhatIsNotSupported(t *testing.T) {
	var c config
	var want []string
	for key := range c.unsupported() {
		want = append(want, key)
	}
	var got []string
	for key, comment := range commented(t, exampleConfig) {
		if strings.Contains(strings.Join(strings.Fields(strings.ReplaceAll(comment, "#", "")), " "), "Not supported by this version") {
			got = append(got, key)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("the example calls other keys unsupported than the code refuses (-example +code):\n%s", diff)
	}
}

func TestExamplePolicyAndTrustFit(t *testing.T) {
	set, err := policy.Load([]string{"../../configs/policy.yaml"}, time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)) // its waivers lapse within waiver_max
	if err != nil {
		t.Fatal(err)
	}
	roots, err := policy.LoadTrust([]string{"../../configs/trust.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	if err := policy.CheckAuthorities(set, roots); err != nil {
		t.Error(err)
	}
}

// The example and what the command prints are both read by people who will use one of them.
func TestHostsFileIsWhatTheCommandPrints(t *testing.T) {
	const proxy = "https://tidewaiter.example.internal:5000"
	var got []string
	for line := range strings.Lines(string(readFile(t, "../../deploy/containerd/hosts.toml"))) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "ca =") { // of which the command knows nothing
			got = append(got, line)
		}
	}
	var out, talk bytes.Buffer
	if code := run(t.Context(), []string{"clients", "containerd", "--proxy", proxy, "--upstream", "docker.io"}, &out, &talk); code != exitDone {
		t.Fatalf("exit %d: %s", code, talk.String())
	}
	var want []string
	for line := range strings.Lines(out.String()) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			want = append(want, line)
		}
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("the example differs from what the command prints (-example +command):\n%s", diff)
	}
}

// object is what the tests read of a Kubernetes object.
type object struct {
	Kind     string
	Metadata struct{ Name, Namespace string }
	Data     map[string]string
	Spec     struct {
		Replicas int
		Template struct{ Spec pod }
		Ports    []struct {
			Port       int
			TargetPort string
		}
		VolumeClaimTemplates []object
	}
}

type pod struct {
	SecurityContext struct {
		RunAsNonRoot   bool
		RunAsUser      int
		SeccompProfile struct{ Type string }
	}
	Containers []container
	Volumes    []struct {
		Name      string
		ConfigMap *struct {
			Name  string
			Items []struct{ Key, Path string }
		}
		EmptyDir, Secret, PersistentVolumeClaim map[string]any
	}
}

type container struct {
	Args  []string
	Ports []struct {
		Name          string
		ContainerPort int
	}
	SecurityContext struct {
		AllowPrivilegeEscalation *bool
		ReadOnlyRootFilesystem   bool
		Capabilities             struct{ Drop []string }
	}
	LivenessProbe, ReadinessProbe, StartupProbe struct {
		HTTPGet struct{ Path, Port, Scheme string }
	}
	VolumeMounts []mount
}

type mount struct {
	Name, MountPath, SubPath string
	ReadOnly                 bool
}

// objects returns what the Kubernetes manifest holds, by kind and name.
func objects(t *testing.T) map[string]object {
	t.Helper()
	in := yaml.NewDecoder(bytes.NewReader(readFile(t, manifestFile)))
	found := map[string]object{}
	for {
		var document any
		err := in.Decode(&document)
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(document) // encoding/json takes its keys without tags for each
		if err != nil {
			t.Fatal(err)
		}
		var o object
		if err := json.Unmarshal(text, &o); err != nil {
			t.Fatal(err)
		}
		name := o.Kind + "/" + o.Metadata.Name
		if _, twice := found[name]; twice || o.Kind == "" || o.Metadata.Name == "" {
			t.Fatalf("%s: %q is there twice, or has no name", manifestFile, name)
		}
		found[name] = o
	}
}

// deployed returns the pod of the manifest, its container, and the configuration it starts with.
func deployed(t *testing.T) (pod, container, *config) {
	t.Helper()
	all := objects(t)
	p := all["StatefulSet/tidewaiter"].Spec.Template.Spec
	if len(p.Containers) != 1 {
		t.Fatalf("got %d containers, want one", len(p.Containers))
	}
	c, err := load(t, all["ConfigMap/tidewaiter"].Data["tidewaiter.yaml"])
	if err != nil {
		t.Fatal(err)
	}
	return p, p.Containers[0], c
}

// under returns the mount that path lies in, the innermost one.
func (c container) under(path string) (mount, bool) {
	var inner mount
	for _, m := range c.VolumeMounts {
		if (path == m.MountPath || strings.HasPrefix(path, m.MountPath+"/")) && len(m.MountPath) > len(inner.MountPath) {
			inner = m
		}
	}
	return inner, inner.MountPath != ""
}

func TestManifestStartsWithWhatItMounts(t *testing.T) {
	p, c, configured := deployed(t)
	if got, want := strings.Join(c.Args, " "), "serve --config /etc/tidewaiter/tidewaiter.yaml"; got != want {
		t.Fatalf("it is started as %q, want %q", got, want)
	}
	t.Run("what it writes lies on volumes it may write to", func(t *testing.T) {
		for path, volume := range map[string]string{configured.Storage.Filesystem.Root: "data", "/tmp": "tmp"} {
			if m, _ := c.under(path); m.Name != volume || m.ReadOnly {
				t.Errorf("%s: got %+v, want %s", path, m, volume)
			}
		}
	})
	t.Run("what it reads lies on volumes it may not write to", func(t *testing.T) {
		read := []string{
			c.Args[2], configured.Redis.SealKeyFile, configured.Listen.TLS.Cert, configured.Listen.TLS.Key, configured.Advisories.Path,
		}
		for _, path := range slices.Concat(read, configured.PolicyFiles, configured.TrustFiles) {
			if m, ok := c.under(path); !ok || !m.ReadOnly {
				t.Errorf("%s: got %+v, want a mount that is only read", path, m)
			}
		}
	})
	t.Run("the files it names are keys of the ConfigMap", func(t *testing.T) {
		data := objects(t)["ConfigMap/tidewaiter"].Data
		offered := map[string]bool{}
		for _, v := range p.Volumes {
			for _, m := range c.VolumeMounts {
				if v.ConfigMap == nil || m.Name != v.Name {
					continue
				}
				for _, item := range v.ConfigMap.Items {
					_, ok := data[item.Key]
					offered[strings.TrimSuffix(m.MountPath, "/"+m.SubPath)+"/"+item.Path] = ok
				}
			}
		}
		for _, file := range slices.Concat(c.Args[2:], configured.PolicyFiles, configured.TrustFiles) {
			if !offered[file] {
				t.Errorf("%s is not offered by the ConfigMap", file)
			}
		}
	})
	t.Run("every mount has its volume", func(t *testing.T) {
		var got, want []string
		for _, m := range c.VolumeMounts {
			got = append(got, m.Name)
		}
		for _, v := range p.Volumes {
			want = append(want, v.Name)
		}
		for _, claim := range objects(t)["StatefulSet/tidewaiter"].Spec.VolumeClaimTemplates {
			want = append(want, claim.Metadata.Name)
		}
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("mounts and volumes differ (-mounts +volumes):\n%s", diff)
		}
	})
}

func TestManifestPolicyAndTrustFit(t *testing.T) {
	data, dir := objects(t)["ConfigMap/tidewaiter"].Data, t.TempDir()
	for _, name := range []string{"policy.yaml", "trust.yaml"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data[name]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set, err := policy.Load([]string{filepath.Join(dir, "policy.yaml")}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	roots, err := policy.LoadTrust([]string{filepath.Join(dir, "trust.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	if err := policy.CheckAuthorities(set, roots); err != nil {
		t.Error(err)
	}
}

func TestManifestPortsAreThoseItListensOn(t *testing.T) {
	_, c, configured := deployed(t)
	listens := map[string]string{"registry": configured.Listen.Registry, "admin": configured.Listen.Admin}
	for _, p := range c.Ports {
		if _, port, err := net.SplitHostPort(listens[p.Name]); err != nil || port != fmt.Sprint(p.ContainerPort) {
			t.Errorf("port %s is %d, and it listens on %q", p.Name, p.ContainerPort, listens[p.Name])
		}
		delete(listens, p.Name)
	}
	if len(listens) > 0 {
		t.Errorf("%v are no ports of the container", listens)
	}
	for name, want := range map[string]string{"Service/tidewaiter": "registry", "Service/tidewaiter-admin": "admin"} {
		if ports := objects(t)[name].Spec.Ports; len(ports) != 1 || ports[0].TargetPort != want {
			t.Errorf("%s leads to %+v, want %s and nothing else", name, ports, want)
		}
	}
	for path, got := range map[string]struct{ Path, Port, Scheme string }{
		"/healthz": c.LivenessProbe.HTTPGet, "/readyz": c.ReadinessProbe.HTTPGet, "/healthz at start": c.StartupProbe.HTTPGet,
	} {
		want := struct{ Path, Port, Scheme string }{strings.TrimSuffix(path, " at start"), "admin", "HTTPS"}
		if got != want {
			t.Errorf("a probe asks %v, want %v", got, want)
		}
	}
	if configured.Listen.TLS.Cert == "" || len(configured.unsafe()) > 0 {
		t.Errorf("unsafe options are on: %v", configured.unsafe())
	}
}

func TestManifestRunsConfined(t *testing.T) {
	p, c, _ := deployed(t)
	if s := p.SecurityContext; !s.RunAsNonRoot || s.RunAsUser == 0 || s.SeccompProfile.Type != "RuntimeDefault" {
		t.Errorf("the pod runs as %+v", s)
	}
	s := c.SecurityContext
	if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
		t.Errorf("the container runs as %+v", s)
	}
	if got := objects(t)["StatefulSet/tidewaiter"].Spec.Replicas; got != 1 {
		t.Errorf("got %d replicas, want one: without Redis, and on a volume of one node", got)
	}
}
