package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// ImageConfig is what an image's config says of how it is to be run and where it came from (image-spec, config.md). Whoever built the
// image wrote all of it.
type ImageConfig struct {
	// Created is when the image says it was built, UTC; zero when it does not, or says what is no time.
	Created                   time.Time
	OS, Architecture, Variant string
	User                      string
	// Env is in the order of the config, "NAME=value" each, if the author kept to that.
	Env             []string
	Entrypoint, Cmd []string
	WorkingDir      string
	// Volumes and ExposedPorts are sorted.
	Volumes, ExposedPorts []string
	Labels                map[string]string
	StopSignal            string
	// History is in the order of the steps the image was built in.
	History []BuildStep
	DiffIDs []oci.Digest
}

// BuildStep is one step of an image's history.
type BuildStep struct {
	// Created is as in [ImageConfig].
	Created            time.Time
	CreatedBy, Comment string
}

// maxConfigEntries bounds each list of a config: an image may expose every port there is.
const maxConfigEntries = 1 << 16

// The keys of a config that are read. What else there is stays unread: runtimes ignore what they do not know.
var (
	configKeys  = []string{"created", "os", "architecture", "variant", "config", "rootfs", "history"}
	processKeys = []string{"User", "Env", "Entrypoint", "Cmd", "WorkingDir", "Volumes", "ExposedPorts", "Labels", "StopSignal"}
)

// wireConfig is a config as it is written.
type wireConfig struct {
	Created      json.RawMessage `json:"created"`
	OS           string          `json:"os"`
	Architecture string          `json:"architecture"`
	Variant      string          `json:"variant"`
	Config       struct {
		User         string                     `json:"User"`
		Env          []string                   `json:"Env"`
		Entrypoint   command                    `json:"Entrypoint"`
		Cmd          command                    `json:"Cmd"`
		WorkingDir   string                     `json:"WorkingDir"`
		Volumes      map[string]json.RawMessage `json:"Volumes"`
		ExposedPorts map[string]json.RawMessage `json:"ExposedPorts"`
		Labels       map[string]string          `json:"Labels"`
		StopSignal   string                     `json:"StopSignal"`
	} `json:"config"`
	RootFS struct {
		DiffIDs []oci.Digest `json:"diff_ids"`
	} `json:"rootfs"`
	History []struct {
		Created   json.RawMessage `json:"created"`
		CreatedBy string          `json:"created_by"`
		Comment   string          `json:"comment"`
	} `json:"history"`
}

// command is a list of words, or one, as Docker takes it.
type command []string

// UnmarshalJSON implements json.Unmarshaler.
func (c *command) UnmarshalJSON(raw []byte) error {
	if bytes.HasPrefix(raw, []byte(`"`)) {
		*c = make(command, 1)
		return json.Unmarshal(raw, &(*c)[0])
	}
	return json.Unmarshal(raw, (*[]string)(c))
}

// parseConfig reads an image config. It refuses what two runtimes could understand differently. Its errors are for a person.
func parseConfig(body []byte) (ImageConfig, error) {
	top, err := distinctKeys(body, configKeys)
	if err != nil {
		return ImageConfig{}, err
	}
	if process := top["config"]; len(process) > 0 && !bytes.Equal(process, []byte("null")) {
		if _, err := distinctKeys(process, processKeys); err != nil {
			return ImageConfig{}, err
		}
	}
	var w wireConfig
	if err := json.Unmarshal(body, &w); err != nil {
		return ImageConfig{}, errors.New("the config is not JSON that runtimes can read")
	}
	c := ImageConfig{
		Created: wireTime(w.Created), OS: w.OS, Architecture: w.Architecture, Variant: w.Variant,
		User: w.Config.User, Env: w.Config.Env, Entrypoint: w.Config.Entrypoint, Cmd: w.Config.Cmd, WorkingDir: w.Config.WorkingDir,
		Volumes: slices.Sorted(maps.Keys(w.Config.Volumes)), ExposedPorts: slices.Sorted(maps.Keys(w.Config.ExposedPorts)),
		Labels: w.Config.Labels, StopSignal: w.Config.StopSignal, DiffIDs: w.RootFS.DiffIDs,
	}
	for _, s := range w.History {
		c.History = append(c.History, BuildStep{wireTime(s.Created), s.CreatedBy, s.Comment})
	}
	for _, n := range []int{len(c.Env), len(c.Entrypoint), len(c.Cmd), len(c.Volumes), len(c.ExposedPorts), len(c.Labels), len(c.History)} {
		if n > maxConfigEntries {
			return ImageConfig{}, fmt.Errorf("the config has a list of %d entries, at most %d are read", n, maxConfigEntries)
		}
	}
	return c, nil
}

// wireTime returns the time raw says, UTC; the zero time when it says none. A runtime can live without.
func wireTime(raw json.RawMessage) time.Time {
	var t time.Time
	if json.Unmarshal(raw, &t) != nil {
		return time.Time{}
	}
	return t.UTC()
}

// distinctKeys returns the members of the JSON object raw. Of known keys each may be there once, in one spelling: some readers fold
// cases, as ours does, some do not, and of two the first or the last may count.
func distinctKeys(raw []byte, known []string) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return nil, errors.New("the config is not JSON that runtimes can read")
	}
	members := map[string]json.RawMessage{}
	for d.More() {
		token, err := d.Token()
		key, ok := token.(string)
		var member json.RawMessage
		if err != nil || !ok || d.Decode(&member) != nil {
			return nil, errors.New("the config is not JSON that runtimes can read")
		}
		i := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(k, key) })
		if i < 0 {
			continue
		}
		if _, twice := members[key]; twice || key != known[i] {
			return nil, fmt.Errorf("the config has the key %.60q twice or in another case", key)
		}
		members[key] = member
	}
	return members, nil
}

// ReadsConfig reports whether the policy asks for what an image's config says.
func (p Policy) ReadsConfig() bool {
	r := p.Image
	return !r.UnsafeHostileConfig || r.DenyRootUser || len(r.RequireLabels) > 0 || r.MaxBaseAge > 0 || p.Secrets != nil || p.expressionsRead().Image
}

// needsConfig reports whether p can only decide on e with the image's config.
func (p Policy) needsConfig(e Evidence) bool {
	return p.ReadsConfig() && mayBeImage(e.Manifest) && !e.OnlyStatements
}

// mayBeImage reports whether some runtime takes m for an image: by the types of the specifications; by those Docker takes for one, from
// the time when registries made types up; or, as podman does, whatever the type of the config in one of Docker's manifests.
func mayBeImage(m oci.Manifest) bool {
	switch m.Config.MediaType {
	case "application/octet-stream", "application/json", "text/html":
		return !m.IsIndex()
	}
	return hasImageConfig(m) || m.MediaType == oci.MediaTypeDockerImage
}

// hasImageConfig reports whether the config of m claims to be an image's.
func hasImageConfig(m oci.Manifest) bool {
	return m.Config.MediaType == oci.MediaTypeConfig || m.Config.MediaType == oci.MediaTypeDockerConf
}

// isImage reports whether rules about images apply to e, once its config was examined.
func (e Evidence) isImage() bool {
	return !e.OnlyStatements && (e.Config != nil || hasImageConfig(e.Manifest))
}

// gatherConfig adds to e what the image's config says. A config that cannot be read is a gap; one of another type that is none of an
// image is nothing.
func (g *Gate) gatherConfig(ctx context.Context, p Policy, e *Evidence) error {
	m := e.Manifest
	if m.Config.Size > maxConfigBytes {
		e.ConfigExamined = true
		e.Gaps = append(e.Gaps, largeConfig(m))
		return nil
	}
	body, err := g.readBlob(ctx, e.Candidate, m.Config, maxConfigBytes)
	if err != nil {
		return fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	config, err := parseConfig(body)
	e.ConfigExamined = true
	switch {
	case err != nil && hasImageConfig(m):
		e.Gaps = append(e.Gaps, Gap{Kind: GapConfig, Why: err.Error()})
		return nil
	case err != nil, !hasImageConfig(m) && len(config.DiffIDs) == 0:
		return nil
	}
	e.Config = &config
	if p.Secrets == nil {
		return nil
	}
	if g.o.SecretKinds == nil {
		return errors.New("nobody is there to look for secrets in configs")
	}
	e.ConfigSecrets = secretsIn(config, g.o.SecretKinds)
	return nil
}

// isRefused reports whether e, with more of it still to be gathered, leads to a refusal whatever that is.
func (g *Gate) isRefused(in Inputs, p Policy, e Evidence) bool {
	early := Decide(in.Policies, e, g.o.Now())
	return p.Mode == Enforce && slices.ContainsFunc(early.Reasons, func(r Reason) bool { return r.Rule != RuleUnexamined })
}

// largeConfig is the gap a config of that size is.
func largeConfig(m oci.Manifest) Gap {
	return Gap{Kind: GapConfig, Why: fmt.Sprintf("the config is %d bytes, at most %d are read", m.Config.Size, maxConfigBytes)}
}

// maxConfigSecrets bounds the secrets reported of a config. The first denies already.
const maxConfigSecrets = 100

// secretsIn returns the secrets in c, each with where it stands; sorted by that. They are in nobody's layer, and for everybody to read.
func secretsIn(c ImageConfig, kinds func(text []byte) []string) []Secret {
	var found []Secret
	look := func(text, format string, args ...any) {
		if text == "" || len(found) >= maxConfigSecrets {
			return
		}
		for _, kind := range kinds([]byte(text)) {
			found = append(found, Secret{Kind: kind, Path: fmt.Sprintf(format, args...)})
		}
	}
	for _, variable := range c.Env {
		name, _, _ := strings.Cut(variable, "=")
		look(variable, "the environment variable %.60q", name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Labels)) {
		look(c.Labels[name], "the label %.60q", name)
	}
	look(strings.Join(slices.Concat(c.Entrypoint, c.Cmd), " "), "the command")
	for i, step := range c.History {
		look(step.CreatedBy+"\n"+step.Comment, "step %d of the history", i+1)
	}
	return found
}

func configSecretReasons(p Policy, e Evidence) []Reason {
	if p.Secrets == nil || e.OnlyStatements {
		return nil
	}
	var reasons []Reason
	for _, s := range e.ConfigSecrets {
		reasons = append(reasons, Reason{Rule: RuleSecrets, Message: fmt.Sprintf("a secret, %s, in %s of the config", s.Kind, s.Path)})
	}
	return reasons
}
