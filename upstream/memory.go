package upstream

import "sync"

// memory is a bounded map. When it is full an arbitrary entry makes room: whatever is forgotten costs one more request, so which
// one goes is not worth keeping books for. It is safe for concurrent use.
type memory[V any] struct {
	max int

	mu sync.Mutex
	// entries is guarded by mu.
	entries map[string]V
}

func newMemory[V any](limit int) *memory[V] {
	return &memory[V]{max: limit, entries: map[string]V{}}
}

func (m *memory[V]) get(key string) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.entries[key]
	return v, ok
}

func (m *memory[V]) put(key string, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.entries[key]; !known && len(m.entries) >= m.max {
		for victim := range m.entries {
			delete(m.entries, victim)
			break
		}
	}
	m.entries[key] = v
}

func (m *memory[V]) forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entries, key)
}
